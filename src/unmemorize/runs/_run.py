"""The run folder: a manifest that says what determines the results, and one JSON line per finished unit of work."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from unmemorize._errors import RunError
from unmemorize._files import atomic_write, read_json
from unmemorize.runs._records import Writer, body, files_of, read_lines, read_sorted

SCHEMA = "unmemorize.run/2"
PROMPTS = "prompts.jsonl"
_LEFTOVERS = (".manifest.json.", f".{PROMPTS}.")
"""How temporary files begin, which a killed process may leave."""


class Run:
    """A folder that the same command can go on with.

    An item is done when its record is there whole; each record is synced to the disk, and a torn last line (the process was killed while it
    wrote) is ignored, and cut off by whoever writes next.

    Args:
        folder: the run folder, see `open` and `load`.
        manifest: what determines the results.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(
        cls,
        folder: str | Path,
        config: Mapping[str, Any],
        *,
        about: Mapping[str, Any] | None = None,
        way_out: str = "use another folder",
    ) -> Self:
        """Start a run in a folder, or go on with the one that is there.

        Args:
            folder: made when it does not exist.
            config: everything that determines the results, as plain JSON values.
            about: what determines nothing, such as the model's name and the number of prompts.
            way_out: what to do about a run of another configuration, for the error.

        Raises:
            RunError: the folder holds a run of another configuration, or files that are no run.
        """
        folder, config = Path(folder), json.loads(json.dumps(config))
        path = folder / "manifest.json"
        foreign = folder.exists() and (
            not folder.is_dir()
            or any(not file.name.startswith(_LEFTOVERS) for file in folder.iterdir())
        )
        if path.exists():  # looked at last, since another shard may start the run just now
            run = cls.load(folder)
            before = run.manifest["config"]
            for name in sorted(before.keys() | config.keys()):
                if before.get(name) != config.get(name):
                    raise RunError(
                        f"{folder}: this run was made with {name} = {_short(before.get(name))}, now it is {_short(config.get(name))}. "
                        f"Repeat the earlier command to go on with it, or {way_out}."
                    )
            return run
        if foreign:
            raise RunError(f"{folder}: exists and is not a run folder. Choose another one.")
        packages = {
            name: version(name)
            for name in ("unmemorize", "torch", "diffusers", "transformers", "torchmetrics")
        }
        manifest = {
            "schema": SCHEMA,
            "config": config,
            "about": dict(about or {}),
            "versions": {"python": platform.python_version(), **packages},
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
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
        if manifest.get("schema") != SCHEMA or not all(
            isinstance(manifest.get(part), dict) for part in ("config", "about")
        ):
            raise RunError(f"{folder}: not a run of schema {SCHEMA}. Was it made by this version?")
        return cls(folder, manifest)

    @property
    def about(self) -> dict[str, Any]:
        """What was noted beside."""
        about: dict[str, Any] = self.manifest["about"]
        return about

    @property
    def config(self) -> dict[str, Any]:
        """What determines the results."""
        config: dict[str, Any] = self.manifest["config"]
        return config

    def records(self, name: str) -> dict[int, dict[str, Any]]:
        """What came of the finished items of one kind, by index; empty when there are none. A torn last line does not count.

        Raises:
            RunError: a line other than the last is damaged.
        """
        return {
            content["index"]: body(content)
            for _, _, content in read_lines(self.files(name))
            if "error" not in content
        }

    def failures(self, name: str) -> dict[int, str]:
        """The errors of items that failed and were not finished later, by index."""
        done, failed = set(), {}
        for _, _, content in read_lines(self.files(name)):
            if "error" in content:
                failed[content["index"]] = str(content["error"])
            else:
                done.add(content["index"])
        return {index: error for index, error in failed.items() if index not in done}

    def stream(self, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """`records` one by one in the order of their indices, however many there are."""
        return ((content["index"], body(content)) for content in read_sorted(self.files(name)))

    def done(self, name: str, total: int) -> bytearray:
        """For each of ``total`` items 1 when it is finished, else 0."""
        flags = bytearray(total)
        for _, _, content in read_lines(self.files(name)):
            if "error" not in content and content["index"] < total:
                flags[content["index"]] = 1
        return flags

    def writer(self, name: str, shard: str = "") -> Writer:
        """Adds records, to a file of its own for each shard.

        Raises:
            RunError: the file cannot be written, or another process writes it.
        """
        return Writer(self.folder / (f"{name}.{shard}.jsonl" if shard else f"{name}.jsonl"))

    def append(self, name: str, index: int, record: Mapping[str, Any]) -> None:
        """Add the record of one finished item, synced to the disk.

        Raises:
            RunError: the disk is full or the folder cannot be written; what was there stays.
        """
        with self.writer(name) as writer:
            writer.append({index: record})

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file of the run, whole or not at all; returns its path."""
        path = self.folder / name
        atomic_write(path, content, RunError)
        return path

    def nested(self, kind: str) -> dict[str, Run]:
        """Return the runs inside this one by name: each folder RUN/KIND/NAME that holds a manifest."""
        manifests = sorted((self.folder / kind).glob("*/manifest.json"))
        return {path.parent.name: Run.load(path.parent) for path in manifests}

    def files(self, name: str) -> list[Path]:
        """The files with records of one kind, one for each writer."""
        return files_of(self.folder, name)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
