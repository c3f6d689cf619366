"""The run folder: a manifest that says what determines the results, and one JSON line per finished unit of work."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Self

from unmemorize._errors import RunError
from unmemorize._files import atomic_write, parse_json, read_json

SCHEMA = "unmemorize.run/1"
_LEFTOVER = ".manifest.json."
"""How the temporary file of a manifest begins, which a killed process may leave."""


class Run:
    """A folder that the same command can go on with.

    A unit is done when its record is there whole; `append` syncs each record to the disk, and a torn last line (the process was killed
    while it wrote) is ignored, and cut off by the next `append`.

    Args:
        folder: the run folder, see `open` and `load`.
        manifest: what determines the results.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: str | Path, config: Mapping[str, Any]) -> Self:
        """Start a run in a folder, or go on with the one that is there.

        Args:
            folder: made when it does not exist.
            config: everything that determines the results, as plain JSON values.

        Raises:
            RunError: the folder holds a run of another configuration, or files that are no run.
        """
        folder, config = Path(folder), json.loads(json.dumps(config))
        path = folder / "manifest.json"
        if path.exists():
            run = cls.load(folder)
            before = run.manifest["config"]
            for name in sorted(before.keys() | config.keys()):
                if before.get(name) != config.get(name):
                    raise RunError(
                        f"{folder}: this run was made with {name} = {_short(before.get(name))}, now it is {_short(config.get(name))}. "
                        "Repeat the earlier command to go on with it, choose another folder, or delete this one."
                    )
            return run
        if folder.exists() and (not folder.is_dir() or any(not file.name.startswith(_LEFTOVER) for file in folder.iterdir())):
            raise RunError(f"{folder}: exists and is not a run folder. Choose another one.")
        packages = {name: version(name) for name in ("unmemorize", "torch", "diffusers", "transformers", "torchmetrics")}
        manifest = {
            "schema": SCHEMA,
            "config": config,
            "versions": {"python": platform.python_version(), **packages},
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        atomic_write(path, json.dumps(manifest, indent=1) + "\n", RunError)
        return cls(folder, manifest)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """An existing run.

        Raises:
            RunError: the folder holds no run, or its manifest is damaged.
        """
        folder = Path(folder)
        manifest = read_json(folder / "manifest.json", RunError, "run manifest")
        if manifest.get("schema") != SCHEMA or not isinstance(manifest.get("config"), dict):
            raise RunError(f"{folder}: not a run of schema {SCHEMA}. Was it made by this version?")
        return cls(folder, manifest)

    @property
    def config(self) -> dict[str, Any]:
        """What determines the results."""
        config: dict[str, Any] = self.manifest["config"]
        return config

    def records(self, name: str) -> dict[int, dict[str, Any]]:
        """The finished units of one kind, by index; empty when there are none. A torn last line does not count.

        Raises:
            RunError: a line other than the last is damaged.
        """
        path = self._path(name)
        if not path.exists():
            return {}
        data = path.read_bytes()
        found: dict[int, dict[str, Any]] = {}
        for number, line in enumerate(data[: _whole(data)].splitlines(), 1):
            record = parse_json(line, RunError, f"{path}, line {number}: damaged")
            if not isinstance(record.get("index"), int):
                raise RunError(f"{path}, line {number}: a record without an index. Delete the line and run the command again.")
            found[record.pop("index")] = record
        return found

    def append(self, name: str, index: int, record: Mapping[str, Any]) -> None:
        """Add the record of a finished unit, synced to the disk.

        Raises:
            RunError: the disk is full or the folder cannot be written; what was there stays.
        """
        path = self._path(name)
        line = (json.dumps({"index": index, **record}, ensure_ascii=False, allow_nan=False) + "\n").encode()
        before: int | None = None
        try:
            with path.open("a+b") as handle:
                before = handle.seek(0, os.SEEK_END)
                if before and not _ends_whole(handle):
                    handle.seek(0)
                    before = _whole(handle.read())
                    handle.truncate(before)
                handle.write(line)
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as problem:
            if before is not None:
                os.truncate(path, before)
            raise RunError(
                f"{path}: cannot be written ({problem.strerror}). Free some space; the same command goes on from here."
            ) from problem

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file of the run, whole or not at all; returns its path."""
        path = self.folder / name
        atomic_write(path, content, RunError)
        return path

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"


def _whole(data: bytes) -> int:
    """The length of the whole lines at the beginning of a file."""
    return data.rfind(b"\n") + 1


def _ends_whole(handle: BinaryIO) -> bool:
    handle.seek(-1, os.SEEK_END)
    return handle.read(1) == b"\n"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
