"""The questions that the summary of a run answers, each for every group of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from unmemorize._words import listed
from unmemorize.generation import OVERALL, without_prompts
from unmemorize.metrics import Instrument, PromptMetrics
from unmemorize.report._results import (
    SET_LABELS,
    SSCD_GEN,
    SSCD_ORIG,
    Results,
)
from unmemorize.report._table import Cell, Row, Table
from unmemorize.report._truth import Truth, precision_recall

_NOTES = (
    "The figures are shares, or medians over n prompts ± MAD, with 95 % intervals (Wilson for "
    "shares, bootstrap for medians).",
    "Detected as memorized: among unmemorized prompts these are false positives. Theta exhausted: "
    "the search ended above the threshold, which says nothing about the images yet.",
    "SSCD_Orig (copy score): similarity to the training image; about 1 is a copy, about 0 is "
    "another image. SSCD_Gen: similarity to the original image of the same seed. D_SSCD: "
    "similarity between the seeds of a prompt; lower is more diverse. A_CLIP: how well image and "
    "prompt match. Each covers the prompts detected as memorized, by the median over their seeds.",
)
_LOWER_NOTE = (
    "The median of an even number of values is the lower one of the two in the middle, as in the "
    "published code."
)
_QUALITY_NOTE = (
    "FID is biased upwards for few images: compare only equal n. KID is given ± its deviation "
    "over subsets."
)

_AGAIN = "Repeat unmemorize evaluate, with --real for distances."
"""What to do about results whose images may be others."""


def summary_table(results: Results, truth: Truth | None = None, *, redact: bool = False) -> Table:
    """Sum up a run: medians ± MAD over prompts, with 95 % bootstrap intervals.

    The number of a prompt is the median over its seeds.

    Args:
        results: see `read_results`.
        truth: known neurons, for precision and recall.
        redact: whether training images are private, so their names are left out.

    Returns:
        A table with a column for each group of prompts, without rows that have no answer.
    """
    rows = [
        *_localization_rows(results),
        *(_truth_rows(results, truth) if truth else ()),
        *_metric_rows(results),
        *_quality_rows(results),
    ]
    answered = tuple(row for row in rows if any(cell.figure for cell in row.cells))
    return Table(results.columns, answered, tuple(_notes(results, redact=redact)))


def _notes(results: Results, *, redact: bool) -> Iterator[str]:
    yield from _NOTES
    if results.medians == "lower":
        yield _LOWER_NOTE
    if results.quality:
        yield _QUALITY_NOTE
    unknown = [quality for quality in results.quality if not quality.images]
    if unknown:
        which = ", ".join(f"{each.kind} of {each.set} to {each.against}" for each in unknown)
        yield (
            f"Warning: an earlier version did not record of which images these are: {which}. "
            f"{_AGAIN}"
        )
    if results.outdated:
        yield (
            "Warning: left out, since their images are gone or were replaced: "
            f"{', '.join(results.outdated)}. {_AGAIN}"
        )
    reasons: tuple[Literal["missing", "unreadable"], ...] = ("missing", "unreadable")
    for reason in reasons:
        names = results.lacking(reason)
        if names:
            which = "" if redact else f" ({listed(names)})"
            yield f"Warning: training images {reason}: {len(names)}{which}."


def _row(results: Results, label: str, answer: Callable[[str], Cell], by: str = "") -> Row:
    return Row(label, tuple(answer(column) for column in results.columns), by)


def _localization_rows(results: Results) -> list[Row]:
    def detected(column: str) -> Cell:
        return Cell.share(results.localized(column), lambda record: record.memorized)

    def theta_exhausted(column: str) -> Cell:
        outcomes = [record.theta_exhausted for record in results.memorized(column)]
        return Cell.share([outcome for outcome in outcomes if outcome is not None], bool)

    def initial_neurons(column: str) -> Cell:
        return Cell.median(
            (len(record.initial) for record in results.memorized(column)), results.medians
        )

    def refined_neurons(column: str) -> Cell:
        return Cell.median(
            (len(record.neurons) for record in results.memorized(column)), results.medians
        )

    def seconds(column: str) -> Cell:
        return Cell.median(
            (record.seconds for record in results.localized(column)), results.medians
        )

    return [
        _row(results, "detected as memorized", detected),
        _row(results, "theta exhausted", theta_exhausted),
        _row(results, "neurons, initial selection", initial_neurons),
        _row(results, "neurons, refined", refined_neurons),
        _row(results, "seconds per prompt", seconds),
    ]


def _truth_rows(results: Results, truth: Truth) -> list[Row]:
    def agreement(column: str) -> list[tuple[float, float]]:
        return [
            precision_recall(record.neurons, truth[record.prompt])
            for record in results.memorized(column)
            if truth.get(record.prompt)
        ]

    def precision(column: str) -> Cell:
        return Cell.median((precision for precision, _ in agreement(column)), results.medians)

    def recall(column: str) -> Cell:
        return Cell.median((recall for _, recall in agreement(column)), results.medians)

    return [
        _row(results, "precision, known neurons", precision),
        _row(results, "recall, known neurons", recall),
    ]


def _metric_rows(results: Results) -> Iterator[Row]:
    names = dict.fromkeys(name for metrics in results.metrics for name in metrics.measured)
    for name in names:
        yield from _rows_of_metric(results, name, "", PromptMetrics.median)
        if name == SSCD_ORIG:
            yield from _rows_of_metric(results, name, ", worst seed", PromptMetrics.highest)


def _rows_of_metric(
    results: Results,
    name: str,
    suffix: str,
    of_seeds: Callable[[PromptMetrics, str], float | None],
) -> Iterator[Row]:
    """Yield a row for each set of images, with one number for each prompt."""
    first_of_set = {metrics.name: metrics for metrics in reversed(results.metrics)}
    for set_name in dict.fromkeys(metrics.name for metrics in results.metrics):
        metric = first_of_set[set_name].measured.get(name)
        if metric is None:
            continue
        if (name, set_name) == (SSCD_GEN, "original"):
            continue  # the similarity of the original images to themselves
        numbers = {
            column: [of_seeds(record, name) for record in results.of_column(set_name, column)]
            for column in results.columns
        }
        yield Row(
            f"{metric.label}{suffix}, {SET_LABELS.get(set_name, set_name)}",
            tuple(Cell.median(numbers[column], results.medians) for column in results.columns),
            str(metric.measured_by),
        )


def _quality_rows(results: Results) -> Iterator[Row]:
    for quality in results.quality:
        by = str(Instrument(quality.extractor, quality.extractor_sha256))
        own_column = quality.on or OVERALL
        set_name = without_prompts(quality.set, quality.on)
        set_label = SET_LABELS.get(set_name, set_name)
        fid = Cell(value=quality.fid, count=quality.generated)
        kid = Cell(value=1000 * quality.kid, spread=1000 * quality.kid_std, count=quality.generated)
        for distance, cell in (
            (quality.kind, fid),
            (f"1000 KID on the features of {quality.kind}", kid),
        ):
            cells = tuple(cell if column == own_column else Cell() for column in results.columns)
            yield Row(f"{distance} to {results.real_name(quality)}, {set_label}", cells, by)
