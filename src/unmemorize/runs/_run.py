"""The run folder: a manifest with everything that determines the results, and a line per item.

RUN/manifest.json    kind, settings, inputs and versions, see `Manifest`
RUN/KIND.jsonl       the records of finished items of one kind
RUN/KIND/NAME/       runs inside the run, such as sets of images
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from unmemorize._errors import OtherRunError, RunError
from unmemorize._files import atomic_write, from_json, read_json, to_json
from unmemorize._paths import entries, exists, is_folder
from unmemorize.runs._environment import UNKNOWN, Environment
from unmemorize.runs._manifest import SCHEMA, Inputs, Manifest, RunSettings
from unmemorize.runs._records import Writer, files_of, read_lines, read_sorted, record_in

MANIFEST = "manifest.json"
PROMPTS = "prompts.jsonl"
ANOTHER_RUN = "start another with --new-run or in another folder"
"""What to do about a run with other settings, for commands that have the option."""
_TEMPORARY = (f".{MANIFEST}.", f".{PROMPTS}.")
"""How temporary files begin, which a killed process may leave behind."""


SettingsT = TypeVar("SettingsT", bound=RunSettings)
RecordT = TypeVar("RecordT")


class Run:
    """A folder with results, which the same command can resume.

    An item is done when its whole record is there. Each record is synced to the disk. A torn last
    line, which a killed process leaves behind, is ignored, and the next writer cuts it off.

    Args:
        folder: the run folder, see `open` and `load`.
        manifest: what determines the results.

    Attributes:
        opened: when this process opened the folder, in seconds since 1970.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.opened = time.time()

    @classmethod
    def open(
        cls,
        folder: str | Path,
        settings: RunSettings,
        *,
        inputs: Inputs,
        model: str,
        items: int,
        environment: Environment = UNKNOWN,
        new: bool = False,
        way_out: str = "use another folder",
    ) -> Self:
        """Start a run in a folder, or resume the one that is there.

        Args:
            folder: made when it does not exist.
            settings: everything that determines the results, besides the inputs.
            inputs: what the run works on.
            model: the model's name, for people.
            items: how many items the run has.
            environment: what computes it.
            new: take FOLDER-2, FOLDER-3, ... where the folder holds a run with other settings.
            way_out: what to do about a run with other settings, for the error.

        Raises:
            RunError: the folder holds a run with other settings, or files that are no run.
        """
        manifest = Manifest.now(
            settings, inputs=inputs, model=model, items=items, environment=environment
        )
        folder = _unused(Path(folder), manifest) if new else Path(folder)
        run = cls.existing(folder, manifest.kind)
        if run is not None:
            run.refuse(run.manifest.differences(manifest), way_out)
            return run
        run = cls(folder, manifest)
        run._write_manifest()
        return run

    @classmethod
    def existing(cls, folder: Path, kind: str) -> Self | None:
        """Return the run that a folder holds; None where it is empty or not there.

        Raises:
            RunError: the folder holds a run of another kind, or files that are no run.
        """
        foreign = _holds_other_files(folder)  # looked at first: a shard may start the run just now
        if exists(folder / MANIFEST):
            run = cls.load(folder)
            if run.manifest.kind != kind:
                raise OtherRunError(
                    f"{folder}: this is a run of kind {run.manifest.kind}, not {kind}. "
                    "Name another folder."
                )
            return run
        if foreign:
            raise OtherRunError(f"{folder}: exists and is not a run folder. Choose another one.")
        return None

    def refuse(self, differences: Iterable[tuple[str, Any, Any]], way_out: str) -> None:
        """Refuse to resume the run where anything differs.

        Args:
            differences: of its manifest, see `Manifest.differences`.
            way_out: what to do about them, for the error.

        Raises:
            RunError: something differs.
        """
        for name, before, now in differences:
            raise OtherRunError(
                f"{self.folder}: this run was made with {name} = {_short(before)}, now it is "
                f"{_short(now)}. Repeat the earlier command to resume it, or {way_out}."
            )

    @classmethod
    def of(cls, run: Run | str | Path) -> Run:
        """Turn what a public function was given into a `Run`: load a folder, and keep a `Run`.

        Raises:
            RunError: it is neither a `Run` nor a folder that holds one.
        """
        if isinstance(run, Run):
            return run
        if not isinstance(run, (str, Path)):
            raise RunError(f"{type(run).__name__}: not a run. Give a Run, or its folder.")
        return cls.load(run)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load an existing run.

        Raises:
            RunError: the folder holds no run, its manifest is damaged, or another version made it.
        """
        folder = Path(folder)
        error = OtherRunError if exists(folder / MANIFEST) else RunError
        content = read_json(folder / MANIFEST, error, "run manifest")
        if content.get("schema") != SCHEMA:
            raise OtherRunError(
                f"{folder}: a run of schema {content.get('schema')!r}, this version reads "
                f"{SCHEMA!r}. Repeat the command that made it in a new folder."
            )
        problem = f"{folder}: damaged manifest"
        way_out = "Repeat the command that made it in a new folder."
        return cls(folder, from_json(Manifest, content, OtherRunError, problem, way_out))

    def expect(self, items: int) -> None:
        """Note in the manifest that the run has at least so many items.

        Raises:
            RunError: the folder cannot be written.
        """
        if items > self.manifest.items:
            self.manifest = replace(self.manifest, items=items)
            self._write_manifest()

    def _write_manifest(self) -> None:
        content = json.dumps(to_json(self.manifest), indent=1) + "\n"
        atomic_write(self.folder / MANIFEST, content, RunError)

    def settings(self, cls: type[SettingsT]) -> SettingsT:
        """Return the settings of a run of this kind.

        Raises:
            RunError: the run is of another kind.
        """
        if self.manifest.kind != cls.kind:
            raise RunError(
                f"{self.folder}: a run of kind {self.manifest.kind}, not {cls.kind}. "
                "Name the folder of the other one."
            )
        problem = f"{self.folder}: damaged manifest"
        way_out = "Repeat the command that made it in a new folder."
        return from_json(cls, self.manifest.settings, RunError, problem, way_out)

    def nested(self, kind: str) -> dict[str, Run]:
        """Return the runs inside this one by name: each folder RUN/KIND/NAME with a manifest."""
        manifests = sorted((self.folder / kind).glob(f"*/{MANIFEST}"))
        return {path.parent.name: Run.load(path.parent) for path in manifests}

    def records(self, name: str) -> dict[int, dict[str, Any]]:
        """Return the records of one kind by index. A torn last line does not count.

        Raises:
            RunError: a line other than the last is damaged.
        """
        return {
            content["index"]: record_in(content)
            for _, content in read_lines(self.files(name))
            if "error" not in content
        }

    def failures(self, name: str, since: float = 0.0) -> dict[int, str]:
        """Return the errors of items that failed and were not finished later, by index.

        Args:
            name: of the kind.
            since: the time from which failures count, in seconds since 1970.
        """
        done, failed = set(), {}
        for _, content in read_lines(self.files(name)):
            if "error" not in content:
                done.add(content["index"])
            elif content.get("at", 0) >= since:
                failed[content["index"]] = str(content["error"])
        return {index: error for index, error in failed.items() if index not in done}

    def stream(self, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the records of one kind in the order of their indices, however many there are."""
        lines = read_sorted(self.files(name))
        return ((content["index"], record_in(content)) for content in lines)

    def typed(
        self, name: str, record_type: type[RecordT], way_out: str
    ) -> Iterator[tuple[int, RecordT]]:
        """Yield the records of one kind like `stream`, checked field by field.

        Args:
            name: the kind.
            record_type: what they are.
            way_out: what to do about a damaged one, for errors.

        Raises:
            RunError: a record is damaged.
        """
        problem = f"{self.folder}: damaged record of {name}"
        return (
            (index, from_json(record_type, record, RunError, problem, way_out))
            for index, record in self.stream(name)
        )

    def times(self, name: str) -> dict[int, float]:
        """Return when each item of one kind was finished, in seconds since 1970, by index."""
        return {
            content["index"]: float(content.get("at", 0))
            for _, content in read_lines(self.files(name))
            if "error" not in content
        }

    def done(self, name: str, total: int) -> bytearray:
        """Return for each of ``total`` items 1 when it is finished, else 0."""
        flags = bytearray(total)
        for _, content in read_lines(self.files(name)):
            if "error" not in content and content["index"] < total:
                flags[content["index"]] = 1
        return flags

    def writer(self, name: str, shard: str = "") -> Writer:
        """Open the file of one kind of records for writing; each shard has its own.

        Raises:
            RunError: the file cannot be written, or another process writes it.
        """
        return Writer(self.folder / (f"{name}.{shard}.jsonl" if shard else f"{name}.jsonl"))

    def append(self, name: str, index: int, record: Mapping[str, Any]) -> None:
        """Add the record of one finished item, synced to the disk.

        Raises:
            RunError: the disk is full or the folder cannot be written; earlier records stay.
        """
        with self.writer(name) as writer:
            writer.append({index: record})

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file of the run, whole or not at all, and return its path."""
        path = self.folder / name
        atomic_write(path, content, RunError)
        return path

    def files(self, name: str) -> list[Path]:
        """Return the files with records of one kind, one for each writer."""
        return files_of(self.folder, name)


def _unused(folder: Path, manifest: Manifest) -> Path:
    """Return the first of FOLDER, FOLDER-2, ... that is empty or holds this run."""
    named = folder.resolve() if folder.name in ("", "..") else folder  # "." has no name of its own
    number = 1
    while True:
        candidate = folder if number == 1 else named.with_name(f"{named.name}-{number}")
        if not _holds_other_files(candidate):
            return candidate
        with suppress(RunError):  # of another version, or damaged
            if not Run.load(candidate).manifest.differences(manifest):
                return candidate
        number += 1


def _holds_other_files(folder: Path) -> bool:
    """Tell whether a path is a file, or a folder with more than a killed process left behind."""
    if not exists(folder):
        return False
    return not is_folder(folder) or any(
        not file.name.startswith(_TEMPORARY) for file in entries(folder)
    )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
