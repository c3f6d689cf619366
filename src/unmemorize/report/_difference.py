"""What changed between two runs of one kind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unmemorize._errors import RunError
from unmemorize.export import record_rows
from unmemorize.mitigation import MitigationResult, MitigationRun
from unmemorize.report._totals import Totals
from unmemorize.runs import Run

_NOT_COMPARED = ("index", "tau", "verdict", "fit_seconds", "draw_ratio", "seconds")
"""Columns that say nothing about a row: its position, a setting that all rows share, the status in
words with the counts, which have columns of their own, and times that were measured, which differ
each time."""
_VERDICTS = ("status", "memorized", "neurons", "found", "triggered_at", "copied_at")
"""Columns of what is said of a row."""
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
        totals: what each run reached as a whole, for mitigations; empty for others.
        settings: settings and inputs that differ.
        verdicts: what is said of a prompt and differs, such as its status, whether it is memorized
            and its neurons.
        others: what else differs and is no score: counts, how a prompt is edited, and values that
            one of the runs does not have.
        scores: scores that differ, the largest differences first.
        same: rows in both runs without any difference.
        shared: rows in both runs.
        only_first, only_second: what the rows are about that only one run has.
    """

    totals: tuple[Totals, ...]
    settings: tuple[Changed, ...]
    verdicts: tuple[Changed, ...]
    others: tuple[Changed, ...]
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
    verdicts: list[Changed] = []
    others: list[Changed] = []
    scores: list[Changed] = []
    for change in flat:
        if change.column in _VERDICTS:
            verdicts.append(change)
        elif _is_score(change):
            scores.append(change)
        else:
            others.append(change)
    return RunDifference(
        totals=_totals(first, second),
        settings=tuple(
            Changed(name, "", before, after)
            for name, before, after in first.manifest.differences(second.manifest)
        ),
        verdicts=tuple(verdicts),
        others=tuple(others),
        scores=tuple(sorted(scores, key=lambda change: change.distance, reverse=True)),
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


def _is_score(change: Changed) -> bool:
    """Tell whether both values are scores. Whole numbers are counts, which would outweigh them."""
    return isinstance(change.before, float) and isinstance(change.after, float)


def _totals(first: Run, second: Run) -> tuple[Totals, ...]:
    if first.manifest.kind != MitigationRun.kind:
        return ()
    return tuple(Totals.of(MitigationResult.load(run)) for run in (first, second))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
