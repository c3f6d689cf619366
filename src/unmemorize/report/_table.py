"""The summary of a run: one column for each group of prompts, one row for each question, with the number of prompts behind each figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

from unmemorize._neurons import Neurons
from unmemorize._prompts import Prompt
from unmemorize.localization import Localization
from unmemorize.metrics import summarize, wilson_interval
from unmemorize.runs import Run, Variant, read_localizations, run_prompts

Truth = Mapping[str, Neurons]
"""Prompt -> the neurons that are known to carry its image."""

NAMES = {
    Variant.ORIGINAL: "before",
    Variant.INITIAL: "initial selection off",
    Variant.REFINED: "neurons off",
    Variant.RANDOM: "random neurons off",
}


@dataclass(frozen=True)
class Cell:
    """One answer: the figure with the number of prompts behind it, and its 95 % interval; both empty where there is nothing to answer."""

    figure: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """One question, with an answer for each group."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A summary for people: the groups as columns, the rows, and notes on how to read them."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Results:
    """All that a run has found, by index of the prompt; ``metrics`` by variant first."""

    prompts: Sequence[Prompt]
    localizations: Mapping[int, Localization]
    metrics: Mapping[Variant, Mapping[int, Mapping[str, Any]]]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the prompts, in the order of their first prompt."""
        return tuple(dict.fromkeys(prompt.group for prompt in self.prompts))


def read_results(run: Run) -> Results:
    """What the steps of a run have left so far.

    Raises:
        RunError: nothing is localized yet, or a record is damaged.
    """
    metrics = {}
    for variant in Variant:
        folder = run.folder / "metrics" / variant
        if folder.exists():
            metrics[variant] = Run.load(folder).records("metrics")
    return Results(run_prompts(run), read_localizations(run), metrics)


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
    columns = results.groups
    rows: list[Row] = []

    def add(label: str, answer: Callable[[str], Cell]) -> None:
        cells = tuple(answer(group) for group in columns)
        if any(cell.figure for cell in cells):
            rows.append(Row(label, cells))

    def of(group: str) -> list[Localization]:
        return [record for index, record in results.localizations.items() if results.prompts[index].group == group]

    def memorized(group: str) -> list[Localization]:
        return [record for record in of(group) if record.memorized]

    add("detected as memorized", lambda group: _share(of(group), lambda record: record.memorized))
    add("theta floor reached", lambda group: _share(memorized(group), lambda record: record.floor))
    add("neurons, initial selection", lambda group: _median(len(record.initial) for record in memorized(group)))
    add("neurons, refined", lambda group: _median(len(record.neurons) for record in memorized(group)))
    if truth is not None:

        def known(group: str) -> list[tuple[float, float]]:
            return [precision_recall(record.neurons, truth[record.prompt]) for record in memorized(group) if truth.get(record.prompt)]

        add("precision, known neurons", lambda group: _median(precision for precision, _ in known(group)))
        add("recall, known neurons", lambda group: _median(recall for _, recall in known(group)))
    for key, name in (
        ("sscd_orig", "copy score"),
        ("sscd_gen", "same as before"),
        ("diversity", "seeds alike"),
        ("alignment", "alignment"),
    ):
        for variant, records in results.metrics.items():
            if key == "sscd_gen" and variant is Variant.ORIGINAL:
                continue
            add(f"{name}, {NAMES[variant]}", partial(_metric, results, records, key))
    for variant, records in results.metrics.items():
        add(f"copy score of the worst seed, {NAMES[variant]}", partial(_worst, results, records))
    add("seconds per prompt", lambda group: _median(record.seconds for record in of(group)))
    notes = (
        "Shares, or medians over n prompts ± MAD, with 95 % intervals (Wilson; bootstrap of the median).",
        "Detected: of unmemorized prompts, the false positives. Floor reached: the copy may survive with all candidates off.",
        "Copy score: similarity to the training image. Same as before: similarity to the image of the same seed with nothing off. "
        "Seeds alike: similarity between the seeds of a prompt, lower is more diverse. Alignment: of image and prompt. "
        "All over the prompts detected as memorized, each by the median over its seeds.",
    )
    return Table(columns, tuple(rows), notes)


def seed_median(value: Any) -> float:
    """One number per prompt: the median of a list over seeds, or the number itself."""
    return float(median(value)) if isinstance(value, list) else float(value)


def _metric(results: Results, records: Mapping[int, Mapping[str, Any]], key: str, group: str) -> Cell:
    return _median(seed_median(record[key]) for index, record in records.items() if results.prompts[index].group == group and key in record)


def _worst(results: Results, records: Mapping[int, Mapping[str, Any]], group: str) -> Cell:
    return _median(
        max(record["sscd_orig"]) for index, record in records.items() if results.prompts[index].group == group and "sscd_orig" in record
    )


def _share(records: list[Localization], test: Callable[[Localization], bool]) -> Cell:
    if not records:
        return Cell()
    hits = sum(map(test, records))
    low, high = wilson_interval(hits, len(records))
    return Cell(f"{hits} of {len(records)}", f"{low:.0%} to {high:.0%}")


def _median(values: Iterable[float]) -> Cell:
    found = list(values)
    if not found:
        return Cell()
    summary = summarize(found)
    figure = f"{_number(summary.median)} ± {_number(summary.mad)} (n={summary.count})"
    return Cell(figure, f"{_number(summary.low)} to {_number(summary.high)}")


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
