"""Calibrate a guard on ordinary calls, one image for each caption."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline

from unmemorize._errors import RunError, ThresholdError
from unmemorize._files import from_json, hash_texts, to_json
from unmemorize._prompts import Prompt, as_ordinary
from unmemorize.detection import Calibration, LateNoiseMagnitude, conformal_quantile
from unmemorize.engines import Execution, Finished, Progress, UnitFunction, silent
from unmemorize.guarding._guided_step import GuidedStep
from unmemorize.guarding._threshold import GuardThreshold
from unmemorize.guarding._watch import refuse_watched, watching
from unmemorize.pipelines import Model, guided_calls, run, without_progress_bar
from unmemorize.runs import drive, given_or_temporary, open_run, prompt_count, stream_prompts

_DETECTOR = LateNoiseMagnitude(seeds=1)
"""Its score is what a guard looks at."""
_GUIDANCE = 2.0
"""Any scale above 1: what is looked at does not depend on it."""
_SEED = 2**20
"""Caption i starts from the noise of seed _SEED + i, so no two of them share one."""


@dataclass(frozen=True, kw_only=True)
class GuardCalibrationRun:
    """What determines the scores of a calibration, besides the model and the prompts.

    Args:
        timestep: at which the denoiser looks at the noise, as it receives it.
    """

    kind: ClassVar[str] = "guard-calibration"

    timestep: float


@dataclass(frozen=True, kw_only=True)
class NoiseScore:
    """What a calibration measures of one image.

    Args:
        score: how much the text changes what is made of its noise, see `GuidedStep.scores`.
        shape: as in `GuardThreshold`.
    """

    score: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class NoiseScoresTask:
    """The scores of prompts as a `Task`. Its items are (index, text)."""

    timestep: float
    kind: str = "scores"
    size: int = 8

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""
        refuse_watched(model)
        guided_calls(model)  # refuses pipelines without guidance

        def work(items: Sequence[tuple[int, str]]) -> list[Finished]:
            seeds = [_SEED + index for index, _ in items]
            scores = noise_scores(model, [text for _, text in items], seeds, self.timestep)
            return [Finished(to_json(score)) for score in scores]

        return work


def probed_timestep(model: Model) -> float:
    """Return the timestep at which a guard looks at initial noise, as the denoiser receives it."""
    timestep = model.timesteps(_DETECTOR.steps)[_DETECTOR.step]
    return float(timestep) * model.layout.scale


def noise_scores(
    model: Model, texts: Sequence[str], seeds: Sequence[int], timestep: float
) -> list[NoiseScore]:
    """Run the pipeline for each text up to its first step, and score the initial noise.

    Args:
        model: the model.
        texts: the prompts.
        seeds: for each of them the seed of the CPU generator that draws its initial noise.
        timestep: see `probed_timestep`.

    Raises:
        ModelError: the pipeline has no classifier-free guidance.
    """
    scores: list[NoiseScore] = []
    # prompts that a pipeline pads to the longest are called alone, as calls for one prompt are
    size = 1 if model.layout.separate else len(texts)
    for start in range(0, len(texts), size):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + size]]
        scores += _scores_of_call(model, texts[start : start + size], generators, timestep)
    return scores


def _scores_of_call(
    model: Model, texts: Sequence[str], generators: list[torch.Generator], timestep: float
) -> list[NoiseScore]:
    steps = _DETECTOR.steps
    try:
        with watching(model, _Scoring(model, timestep)), without_progress_bar(model.pipe):
            run(model.pipe, texts, _GUIDANCE, num_inference_steps=steps, generator=generators)
    except _ScoredError as scored:
        return scored.scores
    raise AssertionError("a pipeline with guidance calls its denoiser")


class _Scoring:
    """A judge that scores the noise and ends the call."""

    def __init__(self, model: Model, timestep: float) -> None:
        self._model, self._timestep = model, timestep

    def begin(self) -> None:
        """See `Judge`."""

    def judge(self, step: GuidedStep) -> None:
        """See `Judge`."""
        raise _ScoredError(
            [
                NoiseScore(score=score, shape=step.shape)
                for score in step.scores(self._model, self._timestep)
            ]
        )


class _ScoredError(Exception):
    """The noise is scored, so the rest of the call need not run."""

    def __init__(self, scores: list[NoiseScore]) -> None:
        self.scores = scores


def calibrate_guard(
    pipe: DiffusionPipeline | Model,
    prompts: Iterable[str | Prompt],
    *,
    max_fpr: float | None = None,
    folder: str | Path | None = None,
    progress: Progress = silent,
) -> GuardThreshold:
    """Calibrate a guard on prompts that are not memorized.

    Each prompt gives one image, which is drawn no further than its first step. The level is a
    conformal quantile of the scores of their noise. So the bound holds for one image of a prompt
    like these, over the draw of the prompts and of the noise.

    Args:
        pipe: a loaded pipeline.
        prompts: at least two unmemorized prompts; 99 are needed to bound 1 %.
        max_fpr: the share of false alarms to bound, in (0, 1). By default 0.01, or the smallest
            that the number of prompts allows.
        folder: a run folder in which an interrupted calibration is resumed. It stays; without one
            a temporary folder is used.
        progress: called with the number of prompts done and of all.

    Raises:
        ThresholdError: there are too few prompts, or one of them fails.
        ModelError: the pipeline has no classifier-free guidance, or a guard watches it.
        RunError: the run folder holds another run or cannot be written.

    Source: split-conformal calibration, see `Calibration`; the score is that of
    `LateNoiseMagnitude` for one noise.

    Examples:
        >>> from unmemorize import load_pipeline, testbed
        >>> captions = testbed.captions("calibration")[:4]
        >>> threshold = calibrate_guard(load_pipeline("testbed"), captions)
        >>> threshold.timestep, threshold.max_fpr
        (281.0, 0.2)
    """
    model = Model.of(pipe)
    calibration = Calibration(max_fpr=max_fpr)
    settings = GuardCalibrationRun(timestep=probed_timestep(model))
    way_out = f"delete {folder} to start again"
    with given_or_temporary(folder) as place:
        opened = open_run(place, model, as_ordinary(prompts), settings, way_out=way_out)
        calibration.check(prompt_count(opened), _DETECTOR)
        texts = [prompt.text for prompt in stream_prompts(opened)]
        task, items = NoiseScoresTask(settings.timestep), list(enumerate(enumerate(texts)))
        tally = drive(opened, model, task, items, len(texts), Execution(progress=progress))
        for index, error in tally.failed.items():
            raise ThresholdError(
                f"prompt {texts[index][:60]!r} fails ({error.rstrip('.')}). "
                "If it is that prompt, leave it out."
            )
        found = [_noise_score(record) for _, record in opened.stream(task.kind)]
    scores, rate = [each.score for each in found], calibration.rate(len(found))
    return GuardThreshold(
        tau=conformal_quantile(scores, rate),
        max_fpr=rate,
        timestep=settings.timestep,
        shape=found[0].shape,
        fingerprint=model.fingerprint,
        prompts=hash_texts(texts),
        scores=tuple(scores),
    )


def _noise_score(record: dict[str, Any]) -> NoiseScore:
    way_out = "Delete the run folder and start again."
    return from_json(NoiseScore, record, RunError, "malformed score of a calibration", way_out)
