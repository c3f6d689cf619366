"""The check of a pack of evidence: hashes of all files, and all numbers from the records."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from unmemorize._errors import EvidenceError
from unmemorize._files import as_path, from_json, parse_json
from unmemorize._paths import exists
from unmemorize._words import listed
from unmemorize.report._numbers import NUMBERS, TABLE, flat
from unmemorize.report._packed_files import CONTENTS, SCHEMA, Contents
from unmemorize.report._page import REPORT
from unmemorize.report._recomputed import recompute
from unmemorize.report._recomputed_values import Files, Recomputed, parsed
from unmemorize.report._signature import (
    CREDENTIAL,
    SIGNATURE_ENTRIES,
    Signature,
    read_signature,
)
from unmemorize.report._statement import STATEMENT
from unmemorize.report._verified_page import Page, wrong_words
from unmemorize.runs import hash_of_file

_TOLERANCE = 1e-5
"""How far a recomputed number may lie off: similarities are stored as float32."""
_FEWEST_DECIMALS = 2
"""Of a score or a share on the page. With fewer, a number that lies far off would round to it."""
_RATES = ("per_1000", "low", "high")
"""Names of numbers that are large enough to be printed without decimals."""
_NO_ARCHIVE = (
    OSError, EOFError, ValueError, OverflowError, struct.error, zipfile.BadZipFile,
    NotImplementedError, RuntimeError,
)  # fmt: skip
"""What reading a ZIP file raises where it is damaged or was made to harm."""
_DAMAGED = (
    KeyError, ValueError, IndexError, TypeError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip
"""What computing numbers raises where a record is damaged or was made to harm."""
_WAY_OUT = "Do not rely on this pack; ask for the original one."


@dataclass(frozen=True)
class EvidenceCheck:
    """What `verify_evidence` has found to be right.

    Args:
        sha256: of the pack, to be compared with the one that was kept apart.
        files: how many files have the hash that they should have.
        numbers: how many numbers follow from the records.
        unchecked: names of numbers that cannot be computed from the pack.
        left_out: how many files were left out of the pack, such as the edited model.
        redacted: whether private images were left out.
        signature: who signed the pack; None if nobody did.
    """

    sha256: str
    files: int
    numbers: int
    unchecked: tuple[str, ...]
    left_out: int
    redacted: bool
    signature: Signature | None


def verify_evidence(path: str | Path, *, trust: str | Path | None = None) -> EvidenceCheck:
    """Check that a pack of evidence is whole, and that its numbers follow from its records.

    This shows that the pack is consistent. Where it comes from, only a signature under a trusted
    certificate or a hash that was kept apart can show.

    Args:
        path: what `write_evidence` wrote.
        trust: a PEM file with certificates that are trusted: of issuers, or of signers who issued
            their own. A pack that is not signed under one of them is refused.

    Raises:
        EvidenceError: a file was changed, added or is missing, a number does not follow from the
            records, or a signature does not hold. The message names it.
    """
    path = Path(path)
    if not exists(path):
        raise EvidenceError(f"{path}: there is no such file. Check the path.")
    files = _read(path)
    signed = CREDENTIAL in files
    if signed:
        files = {name: file for name, file in files.items() if name not in SIGNATURE_ENTRIES}
    elif trust is not None:
        raise EvidenceError(f"{path}: the pack is not signed, so nothing shows who made it.")
    if CONTENTS not in files:
        raise EvidenceError(f"{path}: holds no {CONTENTS}, so it is no pack of evidence.")
    problem = f"{path}: {CONTENTS} is damaged"
    listing = parse_json(files.pop(CONTENTS), EvidenceError, problem, _WAY_OUT)
    if listing.get("schema") != SCHEMA:
        raise EvidenceError(
            f"{path}: a pack of schema {listing.get('schema')!r}; this version reads {SCHEMA!r}."
        )
    contents = from_json(Contents, listing, EvidenceError, problem, _WAY_OUT)
    _refuse(path, list(_wrong_files(files, contents)))
    anchors = None if trust is None else as_path(trust, EvidenceError, "trusted certificate")
    signature = read_signature(path, anchors) if signed else None
    try:
        reported = _reported(files)
        recomputed = recompute(files)
        computed = {**recomputed.numbers, **_stated(files, reported)}
        recomputed = replace(recomputed, numbers=computed)
        problems = list(_wrong_references(recomputed, files, contents))
        problems += _wrong_numbers(NUMBERS, computed, reported)
        for name, numbers in recomputed.repeated.items():
            problems += _wrong_numbers(name, numbers, flat(parsed(name, files[name])))
        problems += _wrong_rows(recomputed, reported, files)
        problems += _wrong_page(recomputed, reported, files)
    except _DAMAGED as reason:
        raise EvidenceError(
            f"{path}: a record is missing or damaged ({type(reason).__name__}: {reason}). "
            f"{_WAY_OUT}"
        ) from reason
    _refuse(path, problems)
    known = {name for name, value in reported.items() if isinstance(value, (int, float))}
    return EvidenceCheck(
        sha256=hash_of_file(path),
        files=len(files),
        numbers=len(known & computed.keys()),
        unchecked=tuple(sorted(known - computed.keys())),
        left_out=len(contents.left_out),
        redacted=contents.redacted,
        signature=signature,
    )


def _read(path: Path) -> dict[str, bytes]:
    """Read all files of a pack. None is unpacked, so no name can lead out of it."""
    try:
        with zipfile.ZipFile(path) as pack:
            entries = pack.infolist()
            names = Counter(entry.filename for entry in entries)
            twice = [name for name, times in names.items() if times > 1]
            if twice:
                raise EvidenceError(f"{path}: {twice[0]} is in it twice. {_WAY_OUT}")
            packed = [entry.filename for entry in entries if entry.compress_type]
            if packed:  # a small file may unpack to a huge one
                raise EvidenceError(
                    f"{path}: {packed[0]} is compressed, which packs of evidence are not. "
                    f"{_WAY_OUT}"
                )
            return {entry.filename: pack.read(entry) for entry in entries}
    except _NO_ARCHIVE as problem:
        raise EvidenceError(
            f"{path}: cannot be read as a pack of evidence ({problem}). {_WAY_OUT}"
        ) from problem


def _wrong_files(files: Files, contents: Contents) -> Iterator[str]:
    """Say which files differ from the list."""
    named = contents.files
    for name in sorted(named.keys() | files.keys()):
        if name not in files:
            yield f"{name} is missing"
        elif name not in named:
            yield f"{name} was added"
        elif hashlib.sha256(files[name]).hexdigest() != named[name].sha256:
            yield f"{name} was changed"


def _wrong_references(recomputed: Recomputed, files: Files, contents: Contents) -> Iterator[str]:
    """Say which training images are not those that a record names by their hashes."""
    source = recomputed.named_by
    for name, digest in recomputed.references:
        if name in files:
            if hashlib.sha256(files[name]).hexdigest() != digest:
                yield f"{name} is not the image that {source} names"
        elif name not in contents.left_out:
            yield f"{name} is missing, which {source} names"
        elif contents.left_out[name].sha256 != digest:
            yield f"{name} was left out under another hash than {source} gives"


def _wrong_numbers(
    file: str, computed: Mapping[str, Any], reported: Mapping[str, Any]
) -> Iterator[str]:
    """Say which numbers of a JSON file do not follow from the records."""
    for name, value in computed.items():
        if not _equal(value, reported.get(name)):
            yield f"{file}: {name} is {reported.get(name)}, the records give {value}"


def _wrong_rows(recomputed: Recomputed, reported: Mapping[str, Any], files: Files) -> Iterator[str]:
    """Say which rows, columns and numbers of the table do not follow from the records."""
    table, rows = _table_rows(files), re.escape(recomputed.rows)
    named = {
        name: match
        for name, value in recomputed.numbers.items()
        if value is not None and (match := re.fullmatch(rf"{rows}\.(\d+)\.(.+)", name))
    }
    found, due = [row["index"] for row in table], list(dict.fromkeys(m[1] for m in named.values()))
    if found != due:
        yield f"{TABLE}: has rows of {listed(found) or 'nothing'}, the records give {listed(due)}"
    more = [name.split(".")[1] for name in reported if name.startswith(f"{recomputed.rows}.")]
    if set(more) - set(due):
        yield f"{NUMBERS}: has {recomputed.rows} that the records do not give"
    for column in dict.fromkeys(match[2] for match in named.values()):
        if table and column not in table[0]:
            yield f"{TABLE}: has no column {column}"
    for row in table:
        for column, text in row.items():
            name = f"{recomputed.rows}.{row['index']}.{column}"
            value = recomputed.numbers.get(name, reported.get(name))
            if text != ("" if value is None else str(value)) and not _equal(value, _number(text)):
                yield f"{TABLE}: {name} is {text}, the records give {value}"


def _wrong_page(recomputed: Recomputed, reported: Mapping[str, Any], files: Files) -> Iterator[str]:
    """Say which numbers, headlines and labels of the page do not follow from the records."""
    page = Page.of(_text(files, REPORT))
    for name, exact, shown in page.figures:
        value = recomputed.numbers.get(name, reported.get(name))
        if isinstance(value, str):
            fits = shown == value, exact == value
        else:
            equal = _equal(value, _number(exact))
            fits = _rounds_to(name, value, exact if equal else str(value), shown), equal
        if not all(fits):
            yield f"{REPORT}: {name} is {exact if fits[0] else shown}, the records give {value}"
    for problem in wrong_words(page, recomputed):
        yield f"{REPORT}: {problem}"


def _stated(files: Files, reported: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the operator states by dotted names; None where only the JSON says so."""
    statement = parsed(STATEMENT, files[STATEMENT]) if STATEMENT in files else {}
    stated = flat(statement, "statement")
    quoted = [name for name in reported if name.split(".")[0] == "statement"]
    return {name: stated.get(name) for name in (*stated, *quoted)}


def _reported(files: Files) -> dict[str, Any]:
    """Return the numbers in the JSON by their dotted names."""
    try:
        return flat(parsed(NUMBERS, files[NUMBERS]))
    except RecursionError as problem:
        raise ValueError(f"{NUMBERS}: {problem}") from problem


def _table_rows(files: Files) -> list[dict[str, str]]:
    """Return the rows of the table, by column."""
    try:
        columns, *rows = csv.reader(io.StringIO(_text(files, TABLE)))
        table = [dict(zip(columns, row, strict=True)) for row in rows]
    except (ValueError, csv.Error) as problem:
        raise ValueError(f"{TABLE}: {problem}") from problem
    if "index" not in columns:
        raise ValueError(f"{TABLE}: has no column index")
    return table


def _text(files: Files, name: str) -> str:
    try:
        return files[name].decode()
    except UnicodeDecodeError as problem:
        raise ValueError(f"{name}: {problem}") from problem


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, float) or isinstance(second, float):
        try:
            return math.isclose(first, second, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
        except TypeError:
            return False
    return bool(first == second)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _rounds_to(name: str, value: float | None, exact: str, shown: str) -> bool:
    """Tell whether a printed number is a rounding, up or down, of the exact one beside it.

    A whole number must be printed as it is.
    """
    text, digits = shown.replace(",", ""), len(shown.partition(".")[2])
    if value is None or _number(text) is None or _number(exact) is None:
        return False
    may_be_rough = isinstance(value, int) or name.rpartition(".")[2] in _RATES
    if digits < _FEWEST_DECIMALS and not may_be_rough:
        return False
    return abs(Decimal(text) - Decimal(exact)) < Decimal(1).scaleb(-digits)


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        raise EvidenceError(f"{path}: {listed(problems, separator='; ')}. {_WAY_OUT}")
