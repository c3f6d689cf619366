"""What follows from the records of a pack, how they are read, and how counts become rates.

What computes the numbers of a pack once more shares no code with what wrote them.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import beta

from unmemorize.report._recomputed_distances import Array

Files = Mapping[str, bytes]
"""The files of a pack by name."""


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """What follows from the records of a run.

    Args:
        numbers: numbers and words by their dotted names in ``report.json``. One that the records do
            not tell is left out.
        rows: what these names begin with in place of the index of a row of ``report.csv``.
        headline: what the page must begin with.
        labels: class and words of the label of each card, by the card's id.
        references: name in the pack and SHA-256 of each image that the run was asked about.
        named_by: the file that gives these hashes.
        repeated: numbers and words by their dotted names in further JSON files, by file.
    """

    numbers: Mapping[str, Any]
    rows: str
    headline: str
    labels: Mapping[str, tuple[str, str]]
    references: Sequence[tuple[str, str]]
    named_by: str
    repeated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def records_of(files: Files, name: str) -> dict[int, dict[str, Any]]:
    """Return the records of one kind by index, from the files of all writers.

    Raises:
        KeyError, ValueError: one is damaged.
    """
    records: dict[int, dict[str, Any]] = {}
    for file in sorted(files):
        if re.fullmatch(rf"{re.escape(name)}(\..+)?\.jsonl", file):
            for line in files[file].splitlines(keepends=True):
                if line.endswith(b"\n"):
                    record = parsed(file, line)
                    if "error" not in record:
                        records[record["index"]] = record
    return dict(sorted(records.items()))


def parsed(name: str, content: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        name: of the file, for the error.
        content: the object, or a line of the file.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{name}: {problem}") from problem
    if not isinstance(value, dict):
        raise ValueError(f"{name}: holds {content[:20]!r}, not an object")
    return value


def settings_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a mitigation in its manifest."""
    try:
        settings: dict[str, Any] = manifest["settings"]["settings"]
    except (KeyError, TypeError) as problem:
        raise ValueError("manifest.json: holds no settings of a mitigation") from problem
    return settings


def outcomes_of(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``mitigation.json`` must say of each suspect, by dotted names.

    Args:
        numbers: those of ``report.json``.
    """
    values: dict[str, Any] = {}
    for index in range(numbers["suspects"]):
        report, result = f"prompts.{index}", f"outcomes.{index}"
        for name in ("index", "prompt", "status", "verdict", "score"):
            values[f"{result}.{name}"] = numbers[f"{report}.{name}"]
        for name in ("before", "after"):
            if f"{report}.{name}.copies" in numbers:
                values[f"{result}.{name}.copies"] = numbers[f"{report}.{name}.copies"]
                values[f"{result}.{name}.seeds"] = numbers[f"{report}.{name}.images"]
    return values


def rate(name: str, copies: int, images: int) -> dict[str, Any]:
    """Return a count with its rate and its exact interval, per 1,000; nothing without images."""
    if not images:
        return {}
    low = beta.ppf(0.025, copies, images - copies + 1) if copies else 0.0
    high = beta.ppf(0.975, copies + 1, images - copies) if copies < images else 1.0
    return {
        f"{name}.copies": copies,
        f"{name}.images": images,
        f"{name}.per_1000": 1000 * copies / images,
        f"{name}.low": 1000 * float(low),
        f"{name}.high": 1000 * float(high),
    }


def percent(share: float) -> str:
    """Print a confidence, rounded down."""
    return f"{math.floor(10_000 * share + 1e-6) / 100:g}"


def median(values: Sequence[float]) -> float | None:
    """Return the median; None without values."""
    return float(np.median(values)) if values else None


def vector(text: str) -> Array:
    """Return the vector that a record keeps as text."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")
