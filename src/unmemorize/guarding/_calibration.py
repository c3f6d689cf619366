"""Calibrate a guard: the first step of ordinary calls, one image for each caption."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline

from unmemorize._errors import RunError, ThresholdError
from unmemorize._files import from_json, hash_texts, to_json
from unmemorize._prompts import Prompt, as_prompts
from unmemorize.detection import Calibration, as_detector, conformal_quantile
from unmemorize.engines import Execution, Finished, Progress, UnitFunction, silent
from unmemorize.guarding._guided_step import GuidedStep
from unmemorize.guarding._threshold import GuardThreshold
from unmemorize.guarding._watch import watching
from unmemorize.neurons import refuse_switched_off
from unmemorize.pipelines import Model, guided_calls, run, without_progress_bar
from unmemorize.runs import drive, given_or_temporary, open_run, prompt_count, stream_prompts

_DETECTOR = "noise-magnitude"
"""Its score for one seed is what a guard looks at."""
_GUIDANCE = 2.0
"""Any scale above 1: the first predictions do not depend on it."""
_SEED = 2**20
"""Caption i starts from the noise of seed _SEED + i, so no two of them share one."""


@dataclass(frozen=True, kw_only=True)
class GuardCalibrationRun:
    """What determines the scores of a calibration, besides the model and the prompts.

    Args:
        steps: how many steps are set.
        scheduler: a hash of the scheduler's configuration.
    """

    kind: ClassVar[str] = "guard-calibration"

    steps: int
    scheduler: str


@dataclass(frozen=True, kw_only=True)
class FirstScore:
    """What a calibration measures of one image.

    Args:
        score: how much the text changes its first prediction, see `GuidedStep.scores`.
        timestep, shape: as in `GuardThreshold`.
    """

    score: float
    timestep: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FirstScoresTask:
    """The first scores of prompts as a `Task`. Its items are (index, text)."""

    steps: int
    kind: str = "scores"
    size: int = 8

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""
        refuse_switched_off(model)
        guided_calls(model)  # refuses pipelines without guidance

        def work(items: Sequence[tuple[int, str]]) -> list[Finished]:
            seeds = [_SEED + index for index, _ in items]
            scores = first_scores(model, [text for _, text in items], seeds, self.steps)
            return [Finished(to_json(score)) for score in scores]

        return work


def first_scores(
    model: Model, texts: Sequence[str], seeds: Sequence[int], steps: int
) -> list[FirstScore]:
    """Run the pipeline for each text up to the first predictions, and score them.

    Args:
        model: the model.
        texts: the prompts.
        seeds: for each of them the seed of the CPU generator that draws its initial noise.
        steps: scheduler steps to set.

    Raises:
        ModelError: the pipeline has no classifier-free guidance.
    """
    scores: list[FirstScore] = []
    # prompts that a pipeline pads to the longest are called alone, as calls for one prompt are
    size = 1 if model.layout.separate else len(texts)
    for start in range(0, len(texts), size):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + size]]
        scores += _first_scores_of_call(model, texts[start : start + size], generators, steps)
    return scores


def _first_scores_of_call(
    model: Model, texts: Sequence[str], generators: list[torch.Generator], steps: int
) -> list[FirstScore]:
    try:
        with watching(model, _Scoring(model)), without_progress_bar(model.pipe):
            run(model.pipe, texts, _GUIDANCE, num_inference_steps=steps, generator=generators)
    except _ScoredError as scored:
        return scored.scores
    raise AssertionError("a pipeline with guidance calls its denoiser")


class _Scoring:
    """A judge that scores the first step and ends the call."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def begin(self) -> None:
        """See `Judge`."""

    def judge(self, step: GuidedStep) -> None:
        """See `Judge`."""
        raise _ScoredError(
            [
                FirstScore(score=score, timestep=step.timestep, shape=step.shape)
                for score in step.scores(self._model)
            ]
        )


class _ScoredError(Exception):
    """The first step is scored, so the rest of the call need not run."""

    def __init__(self, scores: list[FirstScore]) -> None:
        self.scores = scores


def calibrate_guard(
    pipe: DiffusionPipeline | Model,
    prompts: Iterable[str | Prompt],
    *,
    steps: int,
    max_fpr: float | None = None,
    folder: str | Path | None = None,
    progress: Progress = silent,
) -> GuardThreshold:
    """Calibrate a guard on prompts that are not memorized, under the pipeline's own scheduler.

    Each prompt gives one image, which is drawn no further than its first predictions. The level is
    a conformal quantile of their scores. So the bound holds for one image of a prompt like these,
    over the draw of the prompts and of the noise.

    Args:
        pipe: a loaded pipeline.
        prompts: at least two unmemorized prompts; 99 are needed to bound 1 %.
        steps: the number of steps of the calls to be guarded.
        max_fpr: the share of false alarms to bound, in (0, 1). By default 0.01, or the smallest
            that the number of prompts allows.
        folder: a run folder in which an interrupted calibration is resumed. It stays; without one
            a temporary folder is used.
        progress: called with the number of prompts done and of all.

    Raises:
        ThresholdError: there are too few prompts, or one of them fails.
        ModelError: the pipeline has no classifier-free guidance.
        RunError: the run folder holds another run or cannot be written.

    Source: split-conformal calibration, see `Calibration`; the score is that of Wen et al., ICLR
    2024, on the first step of one image.

    Examples:
        >>> from unmemorize import load_pipeline, testbed
        >>> captions = testbed.captions("calibration")[:4]
        >>> threshold = calibrate_guard(load_pipeline("testbed"), captions, steps=30)
        >>> threshold.timestep, threshold.max_fpr
        (958.0, 0.2)
    """
    model = Model.of(pipe)
    calibration = Calibration(max_fpr=max_fpr)
    settings = GuardCalibrationRun(steps=steps, scheduler=hash_of_scheduler(model))
    way_out = f"delete {folder} to start again"
    with given_or_temporary(folder) as place:
        opened = open_run(place, model, as_prompts(prompts), settings, way_out=way_out)
        calibration.check(prompt_count(opened), as_detector(_DETECTOR))
        texts = [prompt.text for prompt in stream_prompts(opened)]
        task, items = FirstScoresTask(steps), list(enumerate(enumerate(texts)))
        tally = drive(opened, model, task, items, len(texts), Execution(progress=progress))
        for index, error in tally.failed.items():
            raise ThresholdError(
                f"prompt {texts[index][:60]!r} fails ({error.rstrip('.')}). "
                "If it is that prompt, leave it out."
            )
        first = [_first_score(record) for _, record in opened.stream(task.kind)]
    scores, rate = [each.score for each in first], calibration.rate(len(first))
    return GuardThreshold(
        tau=conformal_quantile(scores, rate),
        max_fpr=rate,
        timestep=first[0].timestep,
        shape=first[0].shape,
        steps=steps,
        scheduler=type(model.pipe.scheduler).__name__,
        fingerprint=model.fingerprint,
        prompts=hash_texts(texts),
        scores=tuple(scores),
    )


def hash_of_scheduler(model: Model) -> str:
    """Return a hash of the class and the configuration of the pipeline's scheduler."""
    scheduler = model.pipe.scheduler
    config = json.dumps(dict(scheduler.config), sort_keys=True, default=str)
    return hash_texts([type(scheduler).__name__, config])


def _first_score(record: dict[str, Any]) -> FirstScore:
    way_out = "Delete the run folder and start again."
    return from_json(FirstScore, record, RunError, "malformed score of a calibration", way_out)
