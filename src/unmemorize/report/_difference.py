"""What changed between two runs of one kind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unmemorize._errors import RunError
from unmemorize.export import record_rows
from unmemorize.runs import Run

_NOT_COMPARED = ("index", "tau", "fit_seconds", "draw_ratio", "seconds")
"""Columns that say nothing about a row: its position, a setting that all rows share, and times that
were measured, which differ each time."""
_ROUNDING = 1e-6
"""Numbers whose relative difference is no larger are taken as the same."""


@dataclass(frozen=True)
class Changed:
    """One value that differs.

    Args:
        what: the setting, or what the row is about, such as a prompt.
        column: of the row; empty for a setting.
        before, after: the value in the first and in the second run.
    """

    what: str
    column: str
    before: Any
    after: Any

    @property
    def distance(self) -> float:
        """How far apart two numbers are."""
        return abs(float(self.after) - float(self.before))


@dataclass(frozen=True)
class RunDifference:
    """What changed from one run to another.

    Args:
        settings: settings and inputs that differ.
        verdicts: what is no number and differs, such as whether a prompt is memorized and its
            neurons, and values that one of the runs does not have.
        scores: numbers that differ, the largest differences first.
        same: rows in both runs without any difference.
        shared: rows in both runs.
        only_first, only_second: what the rows are about that only one run has.
    """

    settings: tuple[Changed, ...]
    verdicts: tuple[Changed, ...]
    scores: tuple[Changed, ...]
    same: int
    shared: int
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def difference_of(first: Run, second: Run) -> RunDifference:
    """Compare two runs of one kind: settings, then the records of what is in both.

    Args:
        first, second: runs with records, whatever kind they are of. Prompts are matched by text,
            those with the same text by their order.

    Raises:
        RunError: they are of different kinds, one has no records, or a record is damaged.
    """
    if first.manifest.kind != second.manifest.kind:
        raise RunError(
            f"{first.folder} is a run of kind {first.manifest.kind}, {second.folder} one of kind "
            f"{second.manifest.kind}. Name two runs of one kind."
        )
    rows, other_rows = _by_key(first), _by_key(second)
    shared = [key for key in rows if key in other_rows]
    changes = {key: list(_changes(key, rows[key], other_rows[key])) for key in shared}
    flat = [change for of_key in changes.values() for change in of_key]
    numbers: list[Changed] = []
    others: list[Changed] = []
    for change in flat:
        both = _is_number(change.before) and _is_number(change.after)
        (numbers if both else others).append(change)
    return RunDifference(
        settings=tuple(
            Changed(name, "", before, after)
            for name, before, after in first.manifest.differences(second.manifest)
        ),
        verdicts=tuple(others),
        scores=tuple(sorted(numbers, key=lambda change: change.distance, reverse=True)),
        same=sum(not of_key for of_key in changes.values()),
        shared=len(shared),
        only_first=tuple(key for key in rows if key not in other_rows),
        only_second=tuple(key for key in other_rows if key not in rows),
    )


def _by_key(run: Run) -> dict[str, Mapping[str, Any]]:
    """Return the rows of a run without their keys, by what they are about."""
    table = record_rows(run)
    hidden = {*table.key, *_NOT_COMPARED}
    rows: dict[str, Mapping[str, Any]] = {}
    times: Counter[str] = Counter()
    for row in table.rows:
        key = ", ".join(str(row[column]) for column in table.key if row.get(column) is not None)
        name = key
        while name in rows:
            times[key] += 1
            name = f"{key} ({times[key] + 1})"
        rows[name] = {column: value for column, value in row.items() if column not in hidden}
    return rows


def _changes(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Changed]:
    for column in dict.fromkeys([*before, *after]):
        old, new = before.get(column), after.get(column)
        if not _is_same(old, new):
            yield Changed(key, column, old, new)


def _is_same(old: Any, new: Any) -> bool:
    if _is_number(old) and _is_number(new):
        return math.isclose(old, new, rel_tol=_ROUNDING, abs_tol=1e-12)
    return bool(old == new)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
