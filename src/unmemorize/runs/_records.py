"""Records of finished units: JSON lines in one file for each process that writes, read as one.

A line is ``{"index": 3, "at": 1790000000.0, ...}``: the item's place in the whole list, when it was finished, and what came of it; or
``"error"`` instead, when it failed.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from unmemorize._errors import RunError
from unmemorize._files import parse_json

_CHUNK = 1 << 20
_OPEN = 64
"""Files at a time."""


class Writer:
    """Adds records to a file, as the only process that does.

    Each `append` is synced to the disk. A torn last line, of a process that was killed while it wrote, is cut off at first.

    Raises:
        RunError: the file cannot be written, or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("a+b", buffering=0)
        except OSError as problem:
            raise self._unwritable(problem) from problem
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            self._file.close()
            raise RunError(
                f"{path}: another process writes it. Wait for it, stop it, or give each its own --shard."
            ) from problem
        except OSError:
            pass  # a file system without locks
        self._cut_torn_line()

    def append(self, records: Mapping[int, Mapping[str, Any]]) -> None:
        """Add records by index.

        Raises:
            RunError: the disk is full; what was there stays.
        """
        now = round(time.time(), 3)
        lines = [
            json.dumps({"index": index, "at": now, **record}, ensure_ascii=False, allow_nan=False)
            for index, record in records.items()
        ]
        data = "".join(f"{line}\n" for line in lines).encode()
        before = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
            os.fsync(self._file.fileno())
        except OSError as problem:
            os.truncate(self._path, before)
            raise self._unwritable(problem) from problem

    def _cut_torn_line(self) -> None:
        end = size = self._file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _CHUNK)
            self._file.seek(start)
            newline = self._file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            self._file.truncate(end)

    def _unwritable(self, problem: OSError) -> RunError:
        return RunError(
            f"{self._path}: cannot be written ({problem.strerror}). Free some space; the same command goes on from here."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def files_of(folder: Path, name: str) -> list[Path]:
    """The files with records of one kind: that of the whole, then those of shards."""
    return [
        path
        for path in (folder / f"{name}.jsonl", *sorted(folder.glob(f"{name}.*.jsonl")))
        if path.is_file()
    ]


def read_lines(paths: Iterable[Path]) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """File, place in it, and content of each whole line.

    Raises:
        RunError: a line is damaged.
    """
    for path in paths:
        with path.open("rb") as file:
            place = 0
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                content = parse_json(line, RunError, f"{path}, line {number}: damaged")
                if type(content.get("index")) is not int:
                    raise RunError(
                        f"{path}, line {number}: a record without an index. Delete the line and run the command again."
                    )
                yield path, place, content
                place += len(line)


def read_sorted(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """Lines by index, the last one of each, without those of failures; only their places are held in memory.

    Raises:
        RunError: a line is damaged.
    """
    indices, files, places = array("q"), array("q"), array("q")
    for number, one in enumerate(paths):
        for _, place, content in read_lines([one]):
            if "error" not in content:
                indices.append(content["index"])
                files.append(number)
                places.append(place)
    order = np.argsort(np.asarray(indices), kind="stable")
    opened: dict[int, BinaryIO] = {}
    try:
        for position, here in enumerate(order):
            if position + 1 < len(order) and indices[order[position + 1]] == indices[here]:
                continue
            number = files[here]
            if number not in opened:
                if len(opened) == _OPEN:
                    opened.pop(next(iter(opened))).close()
                opened[number] = paths[number].open("rb")
            opened[number].seek(places[here])
            line: dict[str, Any] = json.loads(opened[number].readline())
            yield line
    finally:
        for file in opened.values():
            file.close()


def body(content: dict[str, Any]) -> dict[str, Any]:
    """What came of an item, without where it belongs and when that was."""
    return {key: value for key, value in content.items() if key not in ("index", "at")}
