"""Everything that the steps of a run have left so far, as typed records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unmemorize._errors import RunError
from unmemorize._files import from_json
from unmemorize._prompts import UNMEMORIZED, Prompt
from unmemorize.generation import OVERALL, ImageSetRun, image_sets
from unmemorize.localization import Localization, read_localizations
from unmemorize.metrics import EvaluationRun
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

_WAY_OUT = "Delete its folder and repeat the command that made it."


@dataclass(frozen=True, kw_only=True)
class References:
    """The training images that a prompt's images were compared with.

    Args:
        missing, unreadable: the file names that could not be compared with.
        paths: all of the files, where they were given to the evaluation instead of by the prompt.
    """

    missing: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PromptScores:
    """The metrics of one prompt's images. What was not measured is empty or None.

    Args:
        sscd_orig: per seed the similarity to the closest training image, in [-1, 1].
        masked: the same over the layout of a template only.
        sscd_gen: per seed the similarity to the original image of that seed.
        alignment: per seed the CLIP similarity of image and prompt.
        diversity: the median similarity between the seeds. Lower is more diverse.
        references: the training images.
    """

    sscd_orig: tuple[float, ...] = ()
    masked: tuple[float, ...] = ()
    sscd_gen: tuple[float, ...] = ()
    alignment: tuple[float, ...] = ()
    diversity: float | None = None
    references: References = field(default_factory=References)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The distance of one set of images from a folder of real ones.

    Args:
        set, on: the set of images and the label of its prompts, empty for the run's own.
        against: the name of the folder of real images.
        kind: the distance, "FID" or "CLIP-FID".
        extractor, extractor_sha256: the network that sees the images, and its hash.
        fid, kid, kid_std: the distances, and the deviation of KID over subsets.
        generated: how many images the set has.
    """

    set: str
    on: str
    against: str
    kind: str
    extractor: str
    extractor_sha256: str
    fid: float
    kid: float
    kid_std: float
    generated: int

    @property
    def set_name(self) -> str:
        """The name of the set without that of its prompts."""
        return without_prompts(self.set, self.on)


@dataclass(frozen=True, kw_only=True)
class SetMetrics:
    """The metrics of one set of images.

    Args:
        name: the name of the set without that of its prompts, such as "refined".
        on: the label of its prompts, empty for those of the run.
        scores: by index of the prompt.
        descriptor, clip: the networks that measured, with their hashes. Empty for none.
    """

    name: str
    on: str
    scores: Mapping[int, PromptScores]
    descriptor: str
    clip: str


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Args:
        prompts: the prompts of the run, localized or not.
        localizations: by index of the prompt.
        metrics: one entry for each evaluated set of images.
        quality: one entry for each set of images compared with real ones.
    """

    prompts: Sequence[Prompt]
    localizations: Mapping[int, Localization]
    metrics: Sequence[SetMetrics] = ()
    quality: Sequence[Quality] = ()

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
        names = (
            name
            for metrics in self.metrics
            for scores in metrics.scores.values()
            for name in getattr(scores.references, reason)
        )
        return list(dict.fromkeys(names))

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

    def scores(self, set_name: str) -> Mapping[int, PromptScores]:
        """Return the scores of the run's own prompts in a set of images, by index."""
        for metrics in self.metrics:
            if metrics.name == set_name and not metrics.on:
                return metrics.scores
        return {}

    def column_scores(self, set_name: str, column: str) -> list[PromptScores]:
        """Return the scores of the prompts in a column, the run's own or others of that label."""
        for metrics in self.metrics:
            if metrics.name == set_name and metrics.on == column:
                return list(metrics.scores.values())
        scores = self.scores(set_name)
        return [scores[index] for index in self.indices(column) if index in scores]


def read_results(run: Run) -> Results:
    """Read what the steps of a run have left so far.

    Args:
        run: a run with localizations.

    Raises:
        RunError: nothing is localized yet, or a record is damaged.
    """
    order = list(SET_LABELS)
    metrics = sorted(
        _read_metrics(run),
        key=lambda entry: order.index(entry.name) if entry.name in order else len(order),
    )
    quality = [
        from_json(Quality, record, RunError, f"{run.folder}/quality.jsonl: damaged", _WAY_OUT)
        for record in run.records("quality").values()
    ]
    return Results(run_prompts(run), read_localizations(run), metrics, quality)


def _read_metrics(run: Run) -> list[SetMetrics]:
    evaluated = run.nested("metrics")
    entries = []
    for folder_name, images in image_sets(run).items():
        if folder_name not in evaluated:
            continue
        metrics_run = evaluated[folder_name]
        settings = metrics_run.settings(EvaluationRun)
        on = images.settings(ImageSetRun).on
        entries.append(
            SetMetrics(
                name=without_prompts(folder_name, on),
                on=on,
                scores={
                    index: _read_scores(metrics_run, record)
                    for index, record in metrics_run.records("metrics").items()
                },
                descriptor=with_hash(settings.descriptor, settings.descriptor_sha256),
                clip=with_hash(settings.clip, settings.clip_sha256 or "") if settings.clip else "",
            )
        )
    return entries


def _read_scores(metrics_run: Run, record: Mapping[str, Any]) -> PromptScores:
    """Return the scores in a record of `evaluate_all`, which leaves out what it did not measure."""
    values = {name: value for name, value in record.items() if value is not None}
    problem = f"{metrics_run.folder}/metrics.jsonl: damaged"
    return from_json(PromptScores, values, RunError, problem, _WAY_OUT)


def without_prompts(folder_name: str, on: str) -> str:
    """Return the name of a set of images without the label of its prompts.

    >>> without_prompts("refined-on-captions", "captions")
    'refined'
    """
    return folder_name.removesuffix(f"-on-{on}")


def with_hash(name: str, digest: str) -> str:
    """Return a name with the first digits of a hash.

    >>> with_hash("descriptor", "0123456789abcdef")
    'descriptor (sha256 0123456789ab)'
    """
    return f"{name} (sha256 {digest[:12]})"
