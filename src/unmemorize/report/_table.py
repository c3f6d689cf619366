"""The summary of a run: one column for each group of prompts, one row for each question, with the number of prompts behind each figure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from unmemorize.generation import OVERALL
from unmemorize.localization import Localization
from unmemorize.metrics import Instrument, PromptMetrics, summarize, wilson_interval
from unmemorize.neurons import Neurons
from unmemorize.report._results import NAMES, Results, what_is_off

Truth = Mapping[str, Neurons]
"""Prompt -> the neurons that are known to carry its image."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One answer, all None where there is nothing to answer.

    Args:
        value: a median over prompts, a share, or a distance.
        spread: the median absolute deviation (of KID the standard deviation over subsets).
        low, high: the 95 % interval.
        hits: of a share.
        count: prompts or images behind the figure.
    """

    value: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None
    hits: int | None = None
    count: int = 0

    @property
    def figure(self) -> str:
        """The answer for people, such as "0.97 ± 0.01 (n=23)"; empty without one."""
        if self.value is None:
            return ""
        if self.hits is not None:
            return f"{self.hits} of {self.count}"
        spread = f" ± {_number(self.spread)}" if self.spread is not None else ""
        return f"{_number(self.value)}{spread} (n={self.count})"

    @property
    def interval(self) -> str:
        """The 95 % interval for people; empty without one."""
        if self.low is None or self.high is None:
            return ""
        if self.hits is not None:
            return f"{self.low:.0%} to {self.high:.0%}"
        return f"{_number(self.low)} to {_number(self.high)}"


@dataclass(frozen=True)
class Row:
    """One question with an answer for each column; ``by`` is what measured it, with the hash of its weights."""

    label: str
    cells: tuple[Cell, ...]
    by: str = ""


@dataclass(frozen=True)
class Table:
    """A summary for people and programs: the groups as columns, the rows, and notes on how to read them."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Every cell with its numbers and as people read it."""
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
        return (
            json.dumps(
                {"columns": self.columns, "rows": rows, "notes": self.notes},
                indent=1,
                ensure_ascii=False,
            )
            + "\n"
        )

    def to_csv(self) -> str:
        """One line for each answer."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ("measure", "group", "value", "spread", "low", "high", "hits", "count", "by")
        )
        for row in self.rows:
            for column, cell in zip(self.columns, row.cells, strict=True):
                if cell.figure:
                    writer.writerow(
                        (
                            row.label,
                            column,
                            cell.value,
                            cell.spread,
                            cell.low,
                            cell.high,
                            cell.hits,
                            cell.count,
                            row.by,
                        )
                    )
        return text.getvalue()


def precision_recall(found: Neurons, known: Neurons) -> tuple[float, float]:
    """The share of found neurons that are known ones, and the share of known ones that were found; 0 where nothing was found."""
    hits = len(found & known)
    return (hits / len(found) if found else 0.0), hits / len(known)


def summary_table(results: Results, truth: Truth | None = None) -> Table:
    """Sum up a run: medians ± MAD over prompts, each the median over its seeds, with 95 % bootstrap intervals.

    Args:
        results: see `read_results`.
        truth: known neurons, for precision and recall.
    """
    rows = [
        *_localization_rows(results),
        *(_truth_rows(results, truth) if truth else ()),
        *_metric_rows(results),
        *_quality_rows(results),
    ]
    notes = [
        "Shares, or medians over n prompts ± MAD, with 95 % intervals (Wilson; bootstrap of the median).",
        "Detected: of unmemorized prompts, the false positives. Floor reached: the copy may survive with all candidates off.",
        "Copy score: similarity to the training image. Same as before: similarity to the image of the same seed with nothing off. "
        "Seeds alike: similarity between the seeds of a prompt, lower is more diverse. Alignment: of image and prompt. "
        "All over the prompts detected as memorized, each by the median over its seeds.",
    ]
    if results.quality:
        notes.append(
            "FID is biased upwards for few images: compare equal n only. KID is given ± its deviation over subsets."
        )
    kinds: tuple[Literal["missing", "unreadable"], ...] = ("missing", "unreadable")
    notes += [
        f"Training images {what}: {len(names)} ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})."
        for what in kinds
        if (names := results.lacking(what))
    ]
    return Table(
        results.columns,
        tuple(row for row in rows if any(cell.figure for cell in row.cells)),
        tuple(notes),
    )


def _row(results: Results, label: str, answer: Callable[[str], Cell], by: str = "") -> Row:
    return Row(label, tuple(answer(column) for column in results.columns), by)


def _localization_rows(results: Results) -> list[Row]:
    return [
        _row(
            results,
            "detected as memorized",
            lambda column: _share(results.localized(column), lambda record: record.memorized),
        ),
        _row(
            results,
            "theta floor reached",
            lambda column: _share(
                _told(results.memorized(column)), lambda record: bool(record.theta_exhausted)
            ),
        ),
        _row(
            results,
            "neurons, initial selection",
            lambda column: _median(len(record.initial) for record in results.memorized(column)),
        ),
        _row(
            results,
            "neurons, refined",
            lambda column: _median(len(record.neurons) for record in results.memorized(column)),
        ),
        _row(
            results,
            "seconds per prompt",
            lambda column: _median(record.seconds for record in results.localized(column)),
        ),
    ]


def _told(records: list[Localization]) -> list[Localization]:
    return [record for record in records if record.theta_exhausted is not None]


def _truth_rows(results: Results, truth: Truth) -> list[Row]:
    def known(column: str) -> list[tuple[float, float]]:
        found = results.memorized(column)
        return [
            precision_recall(record.neurons, truth[record.prompt])
            for record in found
            if truth.get(record.prompt)
        ]

    return [
        _row(
            results,
            "precision, known neurons",
            lambda column: _median(precision for precision, _ in known(column)),
        ),
        _row(
            results,
            "recall, known neurons",
            lambda column: _median(recall for _, recall in known(column)),
        ),
    ]


def _metric_rows(results: Results) -> list[Row]:
    rows = []
    for metric in dict.fromkeys(name for measured in results.metrics for name in measured.metrics):
        rows += _rows_of_metric(results, metric, "", PromptMetrics.median)
        if metric == "sscd-orig":
            rows += _rows_of_metric(results, metric, " of the worst seed", PromptMetrics.highest)
    return rows


def _rows_of_metric(
    results: Results,
    metric: str,
    suffix: str,
    number: Callable[[PromptMetrics, str], float | None],
) -> list[Row]:
    """A row for each set of images, each prompt being one number."""
    rows = []
    for name in dict.fromkeys(measured.name for measured in results.metrics):
        first = next(measured for measured in results.metrics if measured.name == name)
        if metric not in first.metrics or (metric, name) == ("sscd-gen", "original"):
            continue

        def answer(column: str, name: str = name) -> Cell:
            return _median(number(record, metric) for record in results.records(name, column))

        label = f"{first.metrics[metric].label}{suffix}, {NAMES.get(name, name)}"
        rows.append(_row(results, label, answer, str(first.metrics[metric].measured_by)))
    return rows


def _quality_rows(results: Results) -> list[Row]:
    rows = []
    for record in results.quality:
        by = str(Instrument(record.extractor, record.extractor_sha256))
        column, name = record.on or OVERALL, what_is_off(record.set, record.on)
        distance = record.kind
        fid = Cell(value=record.fid, count=record.generated)
        kid = Cell(value=1000 * record.kid, spread=1000 * record.kid_std, count=record.generated)
        for label, cell in ((distance, fid), (f"1000 KID on the features of {distance}", kid)):
            cells = tuple(cell if other == column else Cell() for other in results.columns)
            rows.append(Row(f"{label} to {record.against}, {NAMES.get(name, name)}", cells, by))
    return rows


def _share(records: list[Localization], test: Callable[[Localization], bool]) -> Cell:
    if not records:
        return Cell()
    hits = sum(map(test, records))
    low, high = wilson_interval(hits, len(records))
    return Cell(value=hits / len(records), low=low, high=high, hits=hits, count=len(records))


def _median(values: Iterable[float | None]) -> Cell:
    found = [value for value in values if value is not None]
    if not found:
        return Cell()
    summary = summarize(found)
    return Cell(
        value=summary.median,
        spread=summary.mad,
        low=summary.low,
        high=summary.high,
        count=summary.count,
    )


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
