"""Prompts and the files that hold them: text, CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, Literal, TextIO, cast

from unmemorize._errors import PromptError
from unmemorize._files import parse_json

Kind = Literal["VM", "TM"]

UNMEMORIZED = "unmemorized"
"""The group of prompts that are known not to be memorized."""

_TEXT_COLUMNS = ("caption", "prompt", "text")
_KIND_COLUMNS = ("kind", "type")
_IMAGE_SEPARATOR = "|"


@dataclass(frozen=True)
class Prompt:
    """One prompt, with what is known about it.

    Args:
        text: the caption.
        kind: "VM" (the whole image is a copy), "TM" (its layout is) or None (unknown or not
            memorized).
        url: where the training image was found.
        images: the training image or images, for comparison with what is generated.
        group: the name under which results are summarized; by default the kind or "unlabelled".
    """

    text: str
    kind: Kind | None = None
    url: str | None = None
    images: tuple[Path, ...] = ()
    group: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("VM", "TM", None):
            raise PromptError(
                f"prompt {self.text[:60]!r}: its kind is {self.kind!r}. Use VM, TM or nothing."
            )
        if not self.group:
            object.__setattr__(self, "group", self.kind or "unlabelled")

    @property
    def memorized(self) -> bool | None:
        """True for VM and TM, False in the group "unmemorized", None where it is not known."""
        return True if self.kind else False if self.group == UNMEMORIZED else None


def as_prompt(prompt: str | Prompt) -> Prompt:
    """Turn a text into a prompt about which nothing is known; a prompt stays itself.

    Raises:
        PromptError: it is neither.
    """
    if isinstance(prompt, Prompt):
        return prompt
    if not isinstance(prompt, str):
        raise PromptError(
            f"{prompt!r:.60}: not a prompt. Give a text or a Prompt, not {_kind_of(prompt)}."
        )
    return Prompt(prompt)


def as_prompts(prompts: Iterable[str | Prompt]) -> list[Prompt]:
    """Turn texts or prompts into a list of prompts, see `iter_as_prompts`."""
    return list(iter_as_prompts(prompts))


def iter_as_prompts(prompts: Iterable[str | Prompt]) -> Iterator[Prompt]:
    """Turn texts or prompts into a stream of prompts, which may be larger than memory.

    Raises:
        PromptError: at once, if ``prompts`` is a single text or prompt, a path, a dictionary, or
            not iterable; later, if one of the prompts is not a prompt.

    Examples:
        >>> list(iter_as_prompts("a red cat"))
        Traceback (most recent call last):
        unmemorize.PromptError: 'a red cat': a single prompt. Give a list: ['a red cat'].
    """
    if isinstance(prompts, (str, Prompt)):
        text = prompts if isinstance(prompts, str) else prompts.text
        raise PromptError(f"{text[:60]!r}: a single prompt. Give a list: [{text[:60]!r}].")
    if isinstance(prompts, PurePath):
        raise PromptError(f"{prompts}: a path, not prompts. Read it first: read_prompts(PATH).")
    if not isinstance(prompts, Iterable) or isinstance(prompts, (Mapping, bytes, bytearray)):
        raise PromptError(
            f"{prompts!r:.60}: not prompts. Give a list of texts, not {_kind_of(prompts)}."
        )
    return map(as_prompt, prompts)


def _kind_of(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


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
      ``text`` and, where known, ``type`` or ``kind``, ``URL``, ``images`` and ``group``.
    - ``.jsonl``: one object per line with the same keys.
    - ``.parquet``: the same columns. This needs ``pip install 'unmemorize[parquet]'``.

    Image paths are relative to the file. Several paths are separated by ``|``.

    Raises:
        PromptError: as for `read_prompts`. An error in a row is raised when that row is read.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _READERS)
        if not files:
            raise PromptError(
                f"{path}: there is no prompt file in it. Use files of {', '.join(_READERS)}."
            )
        return chain.from_iterable(map(iter_prompts, files))
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise PromptError(f"{path}: unknown kind of prompt file. Use one of {', '.join(_READERS)}.")
    if not path.is_file():
        raise PromptError(
            f"{path}: the prompt file cannot be read (there is no such file). Check the path."
        )
    return _never_empty(reader(path), path)


def _never_empty(prompts: Iterator[Prompt], path: Path) -> Iterator[Prompt]:
    first = next(prompts, None)
    if first is None:
        raise PromptError(f"{path}: there is no prompt in it.")
    yield first
    yield from prompts


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
    with _opened(path) as file:
        header = file.readline()
        delimiter = ";" if header.count(";") > header.count(",") else ","
        file.seek(0)
        try:
            for number, row in enumerate(csv.DictReader(file, delimiter=delimiter, strict=True), 1):
                if None in row:
                    raise PromptError(
                        f"{path}, row {number}: more fields than columns. "
                        "Quote captions that hold the separator."
                    )
                yield _from_row(row, path, f"row {number}")
        except csv.Error as problem:
            raise PromptError(
                f"{path}: not a valid CSV file ({problem}). "
                "Quote captions that hold the separator or quotation marks."
            ) from problem


def _read_jsonl(path: Path) -> Iterator[Prompt]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _from_row(
                    parse_json(line, PromptError, f"{path}, line {number}: not a valid record"),
                    path,
                    f"line {number}",
                )


def _read_parquet(path: Path) -> Iterator[Prompt]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as problem:
        raise PromptError(
            f"{path}: reading Parquet needs pyarrow. pip install 'unmemorize[parquet]'"
        ) from problem
    try:
        with parquet.ParquetFile(path) as table:
            number = 0
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield _from_row(row, path, f"row {number}")
    except (OSError, ArrowException) as problem:
        raise PromptError(f"{path}: the Parquet file cannot be read ({problem}).") from problem


_READERS = {".txt": _read_txt, ".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _from_row(row: Mapping[Any, object], path: Path, where: str) -> Prompt:
    fields = {key.strip().lower(): value for key, value in row.items() if isinstance(key, str)}
    text = next((fields[name] for name in _TEXT_COLUMNS if name in fields), None)
    if text is None:
        columns = ", ".join(repr(name) for name in fields) or "none"
        raise PromptError(
            f"{path}, {where}: no column Caption, prompt or text (its columns: {columns}). "
            "Name the caption column."
        )
    if not isinstance(text, str) or not text.strip():
        raise PromptError(
            f"{path}, {where}: the caption is not text but {text!r}. Correct or delete it."
        )
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PromptError(
            f"{path}, {where}: the caption holds half a character ({text!r}). Correct or delete it."
        )
    kind = next((fields[name] for name in _KIND_COLUMNS if fields.get(name)), None)
    url, images, group = fields.get("url"), fields.get("images"), fields.get("group")
    names = (
        images
        if isinstance(images, list)
        else str(images).split(_IMAGE_SEPARATOR)
        if images
        else []
    )
    try:
        return Prompt(
            text,
            cast("Kind | None", kind),
            str(url) if url else None,
            tuple(path.parent / str(name) for name in names),
            str(group) if group else "",
        )
    except PromptError as problem:
        raise PromptError(f"{path}, {where}: {problem}") from problem
