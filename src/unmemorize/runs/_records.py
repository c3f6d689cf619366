"""Records of finished items: JSON lines, in one file for each process that writes.

A line such as ``{"index": 3, "at": 1790000000.0, ...}`` holds the item's place in the whole list,
when it was finished (seconds since 1970), and the record itself. For an item that failed it holds
``"error"`` instead of the record.
"""

from __future__ import annotations

import json
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from filelock import FileLock, Timeout

from unmemorize._errors import RunError
from unmemorize._files import parse_json

_CHUNK = 1 << 20
"""Bytes read at once when looking for the end of the last whole line."""
_OPEN_FILES = 64
"""How many files are open at once, below what systems allow; each of many shards has its own."""
_WAY_OUT = "Delete the line and run the command again."


class Writer:
    """The only process that adds records to a file.

    Each `append` is synced to the disk. A torn last line, which a killed process leaves behind, is
    cut off when the file is opened. The lock ``.NAME.lock`` beside the file keeps other processes
    out. A file system without locks works, too, but nothing is kept out there.

    Args:
        path: the file, which is created when it does not exist.

    Raises:
        RunError: the file cannot be written, or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("a+b", buffering=0)
        except OSError as problem:
            raise self._unwritable(problem) from problem
        # Without flock, filelock would take the existence of the file for a lock, which would
        # outlast a killed process.
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), fallback_to_soft=False)
        try:
            self._lock.acquire(blocking=False)
        except Timeout as problem:
            self._file.close()
            raise RunError(
                f"{path}: another process writes it. Wait for it, stop it, or give each its own "
                "--shard."
            ) from problem
        except (OSError, NotImplementedError):
            pass  # a file system without locks
        self._cut_torn_line()

    def append(self, records: Mapping[int, Mapping[str, Any]]) -> None:
        """Add records by index, all of them or none.

        Raises:
            RunError: a record holds what JSON cannot, or the disk is full; earlier records stay.
        """
        now = round(time.time(), 3)
        try:
            data = b"".join(line_of(index, now, record) for index, record in records.items())
        except ValueError as problem:
            raise RunError(
                f"{self._path}: a record cannot be written ({problem}). Look at what measured it: "
                "every number must be finite."
            ) from problem
        size_before = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
            os.fsync(self._file.fileno())
        except OSError as problem:
            os.truncate(self._path, size_before)
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
            f"{self._path}: cannot be written ({problem.strerror}). Free some space; the same "
            "command resumes from here."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        with suppress(OSError):
            self._lock.release()


def line_of(index: int, at: float, record: Mapping[str, Any]) -> bytes:
    """Return the line of a record.

    Raises:
        ValueError: it holds NaN, infinity, or half of a character.
    """
    content = {"index": index, "at": at, **record}
    return f"{json.dumps(content, ensure_ascii=False, allow_nan=False)}\n".encode()


def files_of(folder: Path, kind: str) -> list[Path]:
    """Return the files with records of one kind: the one without a shard, then those of shards."""
    candidates = (folder / f"{kind}.jsonl", *sorted(folder.glob(f"{kind}.*.jsonl")))
    return [path for path in candidates if path.is_file()]


def kinds_in(folder: Path) -> set[str]:
    """Return the kinds of which a folder has records."""
    return {path.name.split(".")[0] for path in folder.glob("[!.]*.jsonl")} - {"prompts"}


def read_lines(paths: Iterable[Path]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each whole line of some files, as its offset in bytes and its content.

    A last line without its end is skipped; a killed process leaves such a line behind.

    Raises:
        RunError: a line is damaged.
    """
    for path in paths:
        with path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                problem = f"{path}, line {number}: damaged"
                content = parse_json(line, RunError, problem, _WAY_OUT)
                if type(content.get("index")) is not int:
                    raise RunError(f"{path}, line {number}: a record without an index. {_WAY_OUT}")
                yield offset, content
                offset += len(line)


def read_sorted(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield the lines of some files by rising index, without those of failures.

    Of several lines with one index, the last one counts. Only their offsets are held in memory.

    Raises:
        RunError: a line is damaged.
    """
    indices, file_numbers, offsets = array("q"), array("q"), array("q")
    for file_number, path in enumerate(paths):
        for offset, content in read_lines([path]):
            if "error" not in content:
                indices.append(content["index"])
                file_numbers.append(file_number)
                offsets.append(offset)
    order = np.argsort(np.asarray(indices), kind="stable")
    sorted_indices = np.asarray(indices)[order]
    is_last_of_index = np.append(sorted_indices[1:] != sorted_indices[:-1], len(order) > 0)
    open_files: dict[int, BinaryIO] = {}
    try:
        for line in order[is_last_of_index[: len(order)]]:
            file_number = file_numbers[line]
            if file_number not in open_files:
                if len(open_files) == _OPEN_FILES:
                    oldest = next(iter(open_files))
                    open_files.pop(oldest).close()
                open_files[file_number] = paths[file_number].open("rb")
            file = open_files[file_number]
            file.seek(offsets[line])
            line_content: dict[str, Any] = json.loads(file.readline())
            yield line_content
    finally:
        for file in open_files.values():
            file.close()


def record_in(content: dict[str, Any]) -> dict[str, Any]:
    """Return the record in a line, without its index and time."""
    return {key: value for key, value in content.items() if key not in ("index", "at")}
