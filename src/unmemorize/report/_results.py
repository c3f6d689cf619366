"""All that a run has found, gathered for its summary and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from unmemorize._prompts import UNMEMORIZED, Prompt
from unmemorize.generation import OVERALL, ImageSetRun, image_sets
from unmemorize.localization import Localization, read_localizations
from unmemorize.metrics import (
    EvaluationRun,
    MeasuredMetric,
    PromptMetrics,
    QualityRecord,
    read_metrics,
    read_quality,
)
from unmemorize.runs import Run, run_prompts

NAMES = {
    "original": "before",
    "refined": "neurons off",
    "random-refined": "random neurons off",
    "initial": "initial selection off",
    "random-initial": "random neurons off, as many as initially",
}
"""What sets of images show, in words and in order; other sets have their own names and come after."""


@dataclass(frozen=True)
class Measured:
    """The metrics of one set of images.

    Args:
        name: what is off, see `NAMES`.
        on: the name of the prompts; empty for those of the run.
        records: by index of the prompt.
        metrics: what was measured and by what, by name.
    """

    name: str
    on: str
    records: Mapping[int, PromptMetrics]
    metrics: Mapping[str, MeasuredMetric]


@dataclass(frozen=True)
class Results:
    """All that a run has found, by index of the prompt.

    Args:
        prompts: of the run.
        localizations: by index of the prompt.
        metrics: of the sets of images that were evaluated.
        quality: records of `quality_all`.
    """

    prompts: Sequence[Prompt]
    localizations: Mapping[int, Localization]
    metrics: Sequence[Measured] = ()
    quality: Sequence[QualityRecord] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the prompts, in the order of their first prompt."""
        return tuple(dict.fromkeys(prompt.group for prompt in self.prompts))

    @property
    def columns(self) -> tuple[str, ...]:
        """What results are summed up over: all prompts of interest, each group, and other prompts that images were made for."""
        return (
            OVERALL,
            *self.groups,
            *dict.fromkeys(measured.on for measured in self.metrics if measured.on),
        )

    def lacking(self, what: Literal["missing", "unreadable"]) -> list[str]:
        """The names of training images that could not be compared with."""
        references = [
            record.references
            for measured in self.metrics
            for record in measured.records.values()
            if record.references
        ]
        names = (name for some in references for name in getattr(some, what))
        return list(dict.fromkeys(names))

    def indices(self, column: str) -> list[int]:
        """The prompts of the run in a column; overall are those of the groups VM and TM, without such those not known as unmemorized."""
        if column != OVERALL:
            return [index for index, prompt in enumerate(self.prompts) if prompt.group == column]
        labelled = [
            index for index, prompt in enumerate(self.prompts) if prompt.group in ("VM", "TM")
        ]
        return labelled or [
            index for index, prompt in enumerate(self.prompts) if prompt.group != UNMEMORIZED
        ]

    def localized(self, column: str) -> list[Localization]:
        """The localizations of the prompts in a column."""
        return [
            self.localizations[index]
            for index in self.indices(column)
            if index in self.localizations
        ]

    def memorized(self, column: str) -> list[Localization]:
        """Those of them that found the prompt memorized."""
        return [record for record in self.localized(column) if record.memorized]

    def of(self, name: str) -> Mapping[int, PromptMetrics]:
        """The metrics of the run's own prompts with this off; empty when there are none."""
        return next(
            (
                measured.records
                for measured in self.metrics
                if measured.name == name and not measured.on
            ),
            {},
        )

    def records(self, name: str, column: str) -> list[PromptMetrics]:
        """The metrics of the prompts in a column with this off."""
        for measured in self.metrics:
            if measured.name == name and measured.on == column:
                return list(measured.records.values())
        found = self.of(name)
        return [found[index] for index in self.indices(column) if index in found]


def read_results(run: Run) -> Results:
    """What the steps of a run have left so far.

    Raises:
        RunError: nothing is localized yet, or a record is damaged.
    """
    metrics = []
    for folder_name, images in image_sets(run).items():
        folder = run.folder / "metrics" / folder_name
        if not folder.exists():
            continue
        measured, on = Run.load(folder), images.settings(ImageSetRun).on
        metrics.append(
            Measured(
                what_is_off(folder_name, on),
                on,
                read_metrics(measured),
                {metric.name: metric for metric in measured.settings(EvaluationRun).metrics},
            )
        )
    order = list(NAMES)
    metrics.sort(
        key=lambda measured: order.index(measured.name) if measured.name in order else len(order)
    )
    quality = list(read_quality(run).values())
    return Results(run_prompts(run), read_localizations(run), metrics, quality)


def what_is_off(name: str, on: str) -> str:
    """The name of a set of images without that of its prompts."""
    return name.removesuffix(f"-on-{on}")
