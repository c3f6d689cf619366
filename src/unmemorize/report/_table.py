"""The summary of a run as a table, for people and for programs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TypeVar

from unmemorize._csv_files import CsvWriter
from unmemorize.metrics import MedianName, summarize, wilson_interval

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One answer. All fields are None where there is nothing to answer.

    Args:
        value: a median over prompts, a share, or a distance.
        spread: the median absolute deviation. For KID, the standard deviation over subsets.
        low, high: the 95 % interval.
        hits: the numerator of a share.
        count: the prompts or images behind the figure.
    """

    value: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None
    hits: int | None = None
    count: int = 0

    @classmethod
    def share(cls, items: Sequence[Item], test: Callable[[Item], bool]) -> Cell:
        """Make a cell of the share of items that pass a test, with its Wilson interval.

        Examples:
            >>> Cell.share([1, 2, 3], lambda number: number > 1).figure
            '2 of 3'
        """
        if not items:
            return cls()
        hits = sum(map(test, items))
        low, high = wilson_interval(hits, len(items))
        return cls(value=hits / len(items), low=low, high=high, hits=hits, count=len(items))

    @classmethod
    def median(cls, values: Iterable[float | None], medians: MedianName = "middle") -> Cell:
        """Make a cell of the median ± MAD of the values that are not None.

        Args:
            values: one for each prompt.
            medians: which median of an even number of values is taken.

        Examples:
            >>> Cell.median([1.0, None, 2.0, 9.0]).figure
            '2.00 ± 1.00 (n=3)'
        """
        numbers = [value for value in values if value is not None]
        if not numbers:
            return cls()
        summary = summarize(numbers, medians)
        return cls(
            value=summary.median,
            spread=summary.mad,
            low=summary.low,
            high=summary.high,
            count=summary.count,
        )

    @property
    def figure(self) -> str:
        """The answer for people, such as "0.97 ± 0.01 (n=23)". Empty without an answer."""
        if self.value is None:
            return ""
        if self.hits is not None:
            return f"{self.hits} of {self.count}"
        spread = f" ± {_number(self.spread)}" if self.spread is not None else ""
        return f"{_number(self.value)}{spread} (n={self.count})"

    @property
    def interval(self) -> str:
        """The 95 % interval for people. Empty without one."""
        if self.low is None or self.high is None:
            return ""
        if self.hits is not None:
            return f"{self.low:.0%} to {self.high:.0%}"
        return f"{_number(self.low)} to {_number(self.high)}"


@dataclass(frozen=True)
class Row:
    """One question.

    Args:
        label: the question in a few words.
        cells: its answers, one for each column.
        by: the network that measured it, with the hash of its weights.
    """

    label: str
    cells: tuple[Cell, ...]
    by: str = ""


@dataclass(frozen=True)
class Table:
    """A summary of a run.

    Args:
        columns: the groups of prompts.
        rows: the questions.
        notes: how to read them.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Return JSON with every cell, as numbers and as people read it."""
        rows = [
            {
                "label": row.label,
                "by": row.by,
                "cells": {
                    column: {**asdict(cell), "figure": cell.figure, "interval": cell.interval}
                    for column, cell in zip(self.columns, row.cells, strict=True)
                    if cell.figure
                },
            }
            for row in self.rows
        ]
        content = {"columns": self.columns, "rows": rows, "notes": self.notes}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """Return CSV with one line for each answer."""
        numbers = [field.name for field in fields(Cell)]
        text = io.StringIO()
        writer = CsvWriter(text)
        writer.row("measure", "group", *numbers, "by")
        for row in self.rows:
            for column, cell in zip(self.columns, row.cells, strict=True):
                if cell.figure:
                    values = (getattr(cell, name) for name in numbers)
                    writer.row(row.label, column, *values, row.by)
        return text.getvalue()


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
