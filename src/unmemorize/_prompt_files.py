"""Files that hold prompts: text, CSV, JSON lines or Parquet."""

from __future__ import annotations

import ast
import csv
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from unmemorize._errors import PromptError
from unmemorize._files import as_path, parse_json
from unmemorize._paths import entries, is_file, is_folder
from unmemorize._prompts import Kind, Prompt
from unmemorize._words import MOST_LISTED, listed

log = logging.getLogger(__name__)

_TEXT_COLUMNS = ("caption", "prompt", "text")
_KIND_COLUMNS = ("kind", "type", "overfit_type")
_URL_COLUMNS = ("url", "urls")
_IMAGE_COLUMNS = ("file_name", "image_path", "image")
"""Columns that name one training image, for rows that name none in the column images."""
_SEPARATOR = "|"
_KINDS: Mapping[str, Kind | None] = {
    "VM": "VM",
    "TM": "TM",
    "MV": "VM",
    "RV": "VM",
    "TV": "TM",
    "N": None,
}
"""The kinds, and what Webster calls them: matching, retrieval and template verbatim, or none."""


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read a prompt file; see `iter_prompts` for the formats.

    Raises:
        PromptError: the file is missing, of an unknown format, without a caption column, or without
            any prompt.
    """
    return list(iter_prompts(path))


def iter_prompts(path: str | Path) -> Iterator[Prompt]:
    """Yield the prompts of a file lazily, so a file may be larger than memory.

    For a folder, the prompts of all its files are yielded in the order of the file names. The
    ending tells the format:

    - ``.txt``: one caption per line.
    - ``.csv``: separated by ``;`` or ``,``. The header names a column ``Caption``, ``prompt`` or
      ``text`` and, where known, ``type``, ``kind`` or ``overfit_type``, ``URL`` or ``urls``,
      ``images``, ``group`` and ``paraphrases``. Where ``images`` is missing or empty, a column
      ``file_name``, ``image_path`` or ``image`` may name one training image, so the metadata of an
      image folder of Hugging Face can be read.
    - ``.jsonl``: one object per line with the same keys.
    - ``.parquet``: the same columns. This needs ``pip install 'unmemorize[parquet]'``.

    Kinds are VM and TM, or the MV, RV (both VM) and TV (TM) of Webster's lists. No group is called
    "all" or "overall", which are names of totals. Image paths are relative to the file. Several
    paths, addresses or paraphrases are a list or separated by ``|``. Rows without a caption are
    left out, and a warning counts and names them. So are images that are stored in the file itself.

    Raises:
        PromptError: as for `read_prompts`. The first prompt is read at once, so a file without any
            is refused before the work. An error in a later row is raised when that row is read.
    """
    path = as_path(path, PromptError, "prompt file")
    if is_folder(path):
        files = [file for file in entries(path) if file.suffix.lower() in _READERS]
        if not files:
            raise PromptError(
                f"{path}: there is no prompt file in it. Use files of {', '.join(_READERS)}."
            )
        others = chain.from_iterable(map(iter_prompts, files[1:]))
        return chain(iter_prompts(files[0]), others)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise PromptError(f"{path}: unknown kind of prompt file. Use one of {', '.join(_READERS)}.")
    if not is_file(path):
        raise PromptError(
            f"{path}: the prompt file cannot be read (there is no such file). Check the path."
        )
    return _never_empty(reader(path), path)


def _never_empty(prompts: Iterator[Prompt], path: Path) -> Iterator[Prompt]:
    first = next(prompts, None)
    if first is None:
        raise PromptError(f"{path}: there is no prompt in it. Write one caption into each row.")
    return chain([first], prompts)


@dataclass
class _Rows:
    """Rows of which something is left out.

    Args:
        problem: what a warning says of them, behind their number.
        count: how many there are.
        first: the first of them.
    """

    problem: str
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, where: str) -> None:
        self.count += 1
        if len(self.first) < MOST_LISTED:
            self.first.append(where)

    def warn(self, path: Path) -> None:
        if self.count:
            rows = listed(self.first, self.count)
            log.warning("%s: %d rows %s: %s", path, self.count, self.problem, rows)


def _prompts_of_rows(
    rows: Iterable[tuple[str, Mapping[str, object]]], path: Path
) -> Iterator[Prompt]:
    """Yield the prompts of rows, each with its name for errors."""
    blanks = _Rows("without a caption are left out and not counted as prompts")
    stored = _Rows(
        "hold something other than the path of a training image. It is left out; save the images "
        "as files, and name these"
    )
    for where, row in rows:
        fields = {name.strip().lower(): value for name, value in row.items()}
        images = _images(fields)
        prompt = _from_row(fields, [each for each in images if isinstance(each, str)], path, where)
        if prompt is None:
            blanks.add(where)
            continue
        if len(prompt.images) < len(images):
            stored.add(where)
        yield prompt
    blanks.warn(path)
    stored.warn(path)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield file
    except OSError as problem:
        raise PromptError(
            f"{path}: the prompt file cannot be read ({problem.strerror or problem}). "
            "Check the path."
        ) from problem
    except UnicodeDecodeError as problem:
        raise PromptError(
            f"{path}: not UTF-8 text ({problem.reason} at byte {problem.start}). Save it as UTF-8."
        ) from problem


def _read_txt(path: Path) -> Iterator[Prompt]:
    with _opened(path) as file:
        for line in file:
            if line.strip():
                yield Prompt(line.strip())


def _read_csv(path: Path) -> Iterator[Prompt]:
    return _prompts_of_rows(_csv_rows(path), path)


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    with _opened(path) as file:
        header = file.readline()
        delimiter = ";" if header.count(";") > header.count(",") else ","
        file.seek(0)
        number = 0
        try:
            for row in csv.DictReader(file, delimiter=delimiter, strict=True):
                number += 1
                if any(row.get(None, ())):
                    raise PromptError(
                        f"{path}, row {number}: more fields than columns. "
                        "Quote captions that hold the separator."
                    )
                yield f"row {number}", {name: row[name] for name in row if name is not None}
        except csv.Error as problem:
            raise PromptError(
                f"{path}, row {number + 1}: not a valid CSV file ({problem}). "
                "Quote captions that hold the separator or quotation marks."
            ) from problem


def _read_jsonl(path: Path) -> Iterator[Prompt]:
    return _prompts_of_rows(_json_rows(path), path)


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                problem = f"{path}, line {number}: not a valid record"
                yield f"line {number}", parse_json(line, PromptError, problem)


def _read_parquet(path: Path) -> Iterator[Prompt]:
    return _prompts_of_rows(_parquet_rows(path), path)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as problem:
        raise PromptError(
            f"{path}: reading Parquet needs pyarrow. pip install 'unmemorize[parquet]'"
        ) from problem
    try:
        with parquet.ParquetFile(path) as table:
            rows = chain.from_iterable(batch.to_pylist() for batch in table.iter_batches())
            for number, row in enumerate(rows, 1):
                yield f"row {number}", row
    except (OSError, ArrowException) as problem:
        raise PromptError(f"{path}: the Parquet file cannot be read ({problem}).") from problem


_READERS = {".txt": _read_txt, ".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _from_row(
    fields: Mapping[str, object], images: Sequence[str], path: Path, where: str
) -> Prompt | None:
    """Make the prompt of a row; None if its caption is missing or blank.

    Raises:
        PromptError: there is no column for captions, or a value is not what it should be.
    """
    columns = [name for name in _TEXT_COLUMNS if name in fields]
    if not columns:
        others = ", ".join(repr(name) for name in fields) or "none"
        raise PromptError(
            f"{path}, {where}: no column Caption, prompt or text (its columns: {others}). "
            "Name the caption column."
        )
    text = fields[columns[0]]
    if _is_blank(text):
        return None
    if not isinstance(text, str):
        raise PromptError(
            f"{path}, {where}: the caption is not text but {text!r:.60}. Correct or delete it."
        )
    kind = _first_filled(fields, _KIND_COLUMNS)
    if isinstance(kind, str) and kind in _KINDS:
        kind = _KINDS[kind]
    urls = dict.fromkeys(chain.from_iterable(_texts(fields.get(name)) for name in _URL_COLUMNS))
    group = fields.get("group")
    try:
        return Prompt(
            text,
            kind,
            next(iter(urls), None),
            tuple(path.parent / name for name in images),
            "" if _is_blank(group) else str(group),
            tuple(urls)[1:],
            tuple(_texts(fields.get("paraphrases"))),
        )
    except PromptError as problem:
        raise PromptError(f"{path}, {where}: {problem}") from problem


def _first_filled(fields: Mapping[str, object], names: Iterable[str]) -> Any:
    filled = (fields[name] for name in names if not _is_blank(fields.get(name)))
    return next(filled, None)


def _images(fields: Mapping[str, object]) -> list[object]:
    """Return the training images of a row: paths, and what else is there in place of one."""
    several = _values(fields.get("images"))
    one = _first_filled(fields, _IMAGE_COLUMNS)
    return several or ([] if one is None else [one])


def _texts(value: object) -> list[str]:
    return [str(each) for each in _values(value)]


def _values(value: object) -> list[object]:
    """Return what a cell holds: a list, a list as text, or texts separated by ``|``."""
    if isinstance(value, str) and value.startswith("["):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = ast.literal_eval(value)  # else it is a name that begins with a bracket
    if _is_blank(value):
        return []
    if not isinstance(value, (str, list)):
        return [value]
    values = value if isinstance(value, list) else value.split(_SEPARATOR)
    return [each for each in values if not _is_blank(each)]


def _is_blank(value: object) -> bool:
    """Whether a cell is empty. Data frames write missing texts as NaN."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())
