"""Everything that the steps of a run have left so far, as typed records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from unmemorize._prompts import UNMEMORIZED, Prompt
from unmemorize.generation import OVERALL, ImageSetRun, image_sets, without_prompts
from unmemorize.localization import Localization, read_localizations
from unmemorize.metrics import (
    EvaluationRun,
    MeasuredMetric,
    MedianName,
    PromptMetrics,
    QualityRecord,
    References,
    fitting_quality,
    read_metrics,
)
from unmemorize.runs import Run, run_prompts

SET_LABELS = {
    "original": "before",
    "refined": "neurons off",
    "random-refined": "random neurons off",
    "initial": "initial selection off",
    "random-initial": "random neurons off, as many as initially",
}
"""What the usual sets of images show, in words and in the order of rows. Other sets keep the name
of their folder and come last."""

# the metrics that the report itself speaks of, see `METRICS`
SSCD_ORIG, SSCD_GEN, D_SSCD = "sscd-orig", "sscd-gen", "d-sscd"
MASKED_COPY = "masked-copy"


@dataclass(frozen=True, kw_only=True)
class SetMetrics:
    """The metrics of one set of images.

    Args:
        name: the name of the set without that of its prompts, such as "refined".
        on: the label of its prompts, empty for those of the run.
        prompts: the metrics of each prompt, by its index.
        measured: what was measured and with which instrument, by name of the metric.
    """

    name: str
    on: str
    prompts: Mapping[int, PromptMetrics]
    measured: Mapping[str, MeasuredMetric]


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Args:
        prompts: the prompts of the run, localized or not.
        localizations: by index of the prompt.
        metrics: one entry for each evaluated set of images.
        quality: one entry for each set of images compared with real ones.
        outdated: what was measured on images that are gone or were replaced, in words.
        medians: which median of an even number of values is taken.
    """

    prompts: Sequence[Prompt]
    localizations: Mapping[int, Localization]
    metrics: Sequence[SetMetrics] = ()
    quality: Sequence[QualityRecord] = ()
    medians: MedianName = "middle"
    outdated: Sequence[str] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the prompts, in the order of their first prompt."""
        return tuple(dict.fromkeys(prompt.group for prompt in self.prompts))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a summary: overall, each group, and each label of other prompts."""
        other_prompts = dict.fromkeys(metrics.on for metrics in self.metrics if metrics.on)
        return (OVERALL, *self.groups, *other_prompts)

    def lacking(self, reason: Literal["missing", "unreadable"]) -> list[str]:
        """Return the names of training images that could not be compared with."""
        names = (name for entry in self.references() for name in getattr(entry, reason))
        return list(dict.fromkeys(names))

    def real_name(self, quality: QualityRecord) -> str:
        """Name a folder of real images: by its whole path if others have the same name."""
        folders = {each.folder for each in self.quality if each.against == quality.against}
        return quality.folder if quality.folder and len(folders) > 1 else quality.against

    def references(self) -> list[References]:
        """Return the training images that each prompt was compared with, where any are known."""
        return [
            record.references
            for metrics in self.metrics
            for record in metrics.prompts.values()
            if record.references
        ]

    def indices(self, column: str) -> list[int]:
        """Return the indices of the run's prompts in a column.

        Overall means the groups VM and TM. A run without them counts all prompts that are not
        known as unmemorized.
        """
        groups: set[str]
        if column != OVERALL:
            groups = {column}
        else:
            groups = {"VM", "TM"}.intersection(self.groups) or set(self.groups) - {UNMEMORIZED}
        return [index for index, prompt in enumerate(self.prompts) if prompt.group in groups]

    def localized(self, column: str) -> list[Localization]:
        """Return the localizations of the prompts in a column."""
        return [
            self.localizations[index]
            for index in self.indices(column)
            if index in self.localizations
        ]

    def memorized(self, column: str) -> list[Localization]:
        """Return the localizations in a column whose prompt was detected as memorized."""
        return [record for record in self.localized(column) if record.memorized]

    def of_set(self, set_name: str) -> Mapping[int, PromptMetrics]:
        """Return the metrics of the run's own prompts in a set of images, by index."""
        for metrics in self.metrics:
            if metrics.name == set_name and not metrics.on:
                return metrics.prompts
        return {}

    def of_prompt(self, set_name: str, index: int) -> PromptMetrics:
        """Return the metrics of one of the run's own prompts; without values if unmeasured."""
        return self.of_set(set_name).get(index, PromptMetrics(values={}))

    def of_column(self, set_name: str, column: str) -> list[PromptMetrics]:
        """Return the metrics of the prompts in a column, the run's own or others of that label."""
        for metrics in self.metrics:
            if metrics.name == set_name and metrics.on == column:
                return list(metrics.prompts.values())
        own = self.of_set(set_name)
        return [own[index] for index in self.indices(column) if index in own]


def read_results(run: Run) -> Results:
    """Read what the steps of a run have left so far.

    Args:
        run: a run with localizations.

    Raises:
        RunError: nothing is localized yet, or a record is damaged.
    """
    order = list(SET_LABELS)
    metrics, outdated = _read_set_metrics(run)
    metrics.sort(
        key=lambda entry: order.index(entry.name) if entry.name in order else len(order),
    )
    quality, others = fitting_quality(run)
    return Results(
        run_prompts(run),
        read_localizations(run),
        metrics,
        quality,
        _medians_of(metrics),
        [*outdated, *(f"{each.kind} of {each.set} to {each.against}" for each in others)],
    )


def _medians_of(metrics: Sequence[SetMetrics]) -> MedianName:
    """Return the medians under which all sets of images were evaluated."""
    names = {record.medians for entry in metrics for record in entry.prompts.values()}
    return "lower" if names == {"lower"} else "middle"


def _read_set_metrics(run: Run) -> tuple[list[SetMetrics], list[str]]:
    """Return the metrics of the sets of images, and what was measured on others, in words."""
    evaluated = run.nested("metrics")
    found, outdated = [], []
    for folder_name, images in image_sets(run).items():
        if folder_name not in evaluated:
            continue
        evaluation, settings = evaluated[folder_name], images.settings(ImageSetRun)
        made_of = evaluation.settings(EvaluationRun)
        if made_of.images != settings:
            outdated.append(f"metrics of {folder_name}")
            continue
        entry = SetMetrics(
            name=without_prompts(folder_name, settings.on),
            on=settings.on,
            prompts=read_metrics(evaluation),
            measured={metric.name: metric for metric in made_of.metrics},
        )
        found.append(entry)
    return found, outdated
