"""Step 2: calibrate the threshold on prompts that are not memorized."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._errors import ThresholdError
from unmemorize._files import hash_texts
from unmemorize._prompts import Prompt, as_prompts
from unmemorize.detection._cascade import Cascade
from unmemorize.detection._noise import (
    NoiseSettings,
    evaluated_timestep,
    make_probe,
    noise_differences,
)
from unmemorize.detection._similarity import kernel_size, pairs_of, pairwise_similarity
from unmemorize.detection._threshold import Threshold
from unmemorize.engines import Execution, Finished, UnitFunction
from unmemorize.neurons import refuse_switched_off
from unmemorize.pipelines import Model
from unmemorize.runs import drive, given_or_temporary, open_run, prompt_count, stream_prompts


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How tau follows from the similarities between seeds.

    Args:
        reduction: see `Threshold`; the paper's text allows both readings, its numbers (0.358 + 0.07) are taken over all pairs here.
        deviations: tau is mean + so many standard deviations; 1 in the paper.
        max_fpr: instead of both, choose tau so that a new prompt like these is called memorized with at most this probability, in (0, 1),
            see `conformal_quantile`.
    """

    reduction: Literal["pairs", "prompts"] = "pairs"
    deviations: float = 1.0
    max_fpr: float | None = None

    def check(self, count: int) -> None:
        """See that so many prompts are enough, before the work.

        Raises:
            ThresholdError: too few prompts, or an unknown reduction.
        """
        if count < 2:
            raise ThresholdError(
                f"{count} prompt(s): a threshold needs at least 2 unmemorized prompts, better 200."
            )
        if self.reduction not in ("pairs", "prompts"):
            raise ThresholdError(f"reduction {self.reduction!r}: unknown. Use pairs or prompts.")
        if self.max_fpr is not None:
            _conformal_rank(count, self.max_fpr)

    def threshold(
        self,
        model: Model,
        settings: NoiseSettings,
        texts: Sequence[str],
        pairs: Sequence[Sequence[float]],
    ) -> Threshold:
        """The threshold from the similarities of all pairs of seeds of each prompt."""
        values = torch.tensor(pairs, dtype=torch.float64)
        highest, means = values.amax(1), values.mean(1)
        reduced = (
            values.flatten() if self.reduction == "pairs" and self.max_fpr is None else highest
        )
        mean, std = float(reduced.mean()), float(reduced.std())
        tau = (
            mean + self.deviations * std
            if self.max_fpr is None
            else conformal_quantile(highest.tolist(), self.max_fpr)
        )
        return Threshold(
            tau=tau,
            tau_seeds=float(means.mean() + 2 * means.std()),
            reduction=self.reduction if self.max_fpr is None else "conformal",
            deviations=self.deviations if self.max_fpr is None else 0.0,
            mean=mean,
            std=std,
            max_fpr=self.max_fpr,
            cascade=Cascade.learn(_matrices(values, settings.seeds), tau),
            highest=tuple(highest.tolist()),
            means=tuple(means.tolist()),
            settings=settings,
            kernel=kernel_size(min(model.latent_shape[1:])),
            timestep=float(evaluated_timestep(model, settings)),
            fingerprint=model.fingerprint,
            prompts=hash_texts(texts),
        )


@dataclass(frozen=True, kw_only=True)
class CalibrationRun:
    """What determines the similarities of a calibration, besides the model and the prompts."""

    kind: ClassVar[str] = "calibration"

    noise: NoiseSettings


@dataclass(frozen=True)
class CalibrationTask:
    """The similarities between the seeds of a prompt as a `Task`."""

    settings: NoiseSettings
    kind: str = "similarities"
    size: int = 1

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""
        refuse_switched_off(model)
        model.guidance(self.settings.guidance)  # refuses pipelines without guidance

        def work(texts: Sequence[str]) -> list[Finished]:
            return [
                Finished({"pairs": similarities(model, text, self.settings).tolist()})
                for text in texts
            ]

        return work


def similarities(model: Model, text: str, settings: NoiseSettings) -> Tensor:
    """The similarity of each pair of seeds of a prompt, float64, in the order of `pairs_of`."""
    probe = make_probe(model, model.encode([text]), settings)
    return pairs_of(pairwise_similarity(noise_differences(model, probe)).double())


def calibrate_threshold(
    pipe: DiffusionPipeline | Model,
    prompts: Iterable[str | Prompt],
    *,
    settings: NoiseSettings | None = None,
    calibration: Calibration | None = None,
    folder: str | Path | None = None,
    execution: Execution | None = None,
) -> Threshold:
    """Calibrate the threshold on prompts that are not memorized.

    Args:
        pipe: a loaded pipeline.
        prompts: at least two unmemorized prompts, which the statistics need not have seen.
        settings: how noise differences are made.
        calibration: how tau follows from the similarities.
        folder: a run folder in which an interrupted calibration is resumed. It stays; without one
            a temporary folder is used.
        execution: who does the work.

    Raises:
        ThresholdError: too few prompts, an unknown reduction, or a prompt fails.
        RunError: the run folder holds another run or cannot be written.
    """
    model = Model.of(pipe)
    settings, calibration = settings or NoiseSettings(), calibration or Calibration()
    with given_or_temporary(folder) as place:
        run = open_run(place, model, as_prompts(prompts), CalibrationRun(noise=settings))
        calibration.check(prompt_count(run))
        task, texts = CalibrationTask(settings), [prompt.text for prompt in stream_prompts(run)]
        tally = drive(run, model, task, enumerate(texts), len(texts), execution)
        for index, error in tally.failed.items():
            raise ThresholdError(
                f"prompt {texts[index][:60]!r} fails ({error.rstrip('.')}). "
                "If it is that prompt, leave it out."
            )
        pairs = [record["pairs"] for _, record in run.stream(task.kind)]
    return calibration.threshold(model, settings, texts, pairs)


def _matrices(pairs: Tensor, seeds: int) -> Tensor:
    """The symmetric matrices (prompts, seeds, seeds) of pairs, with ones on the diagonal."""
    rows, columns = torch.triu_indices(seeds, seeds, 1)
    matrices = torch.eye(seeds, dtype=pairs.dtype).repeat(len(pairs), 1, 1)
    matrices[:, rows, columns] = pairs
    matrices[:, columns, rows] = pairs
    return matrices


def conformal_quantile(scores: Sequence[float], max_fpr: float) -> float:
    """The smallest score that a new one, exchangeable with the n given, exceeds with probability at most ``max_fpr``.

    It is the k-th smallest with k = ceil((n + 1) (1 - max_fpr)): split-conformal calibration with its correction for a finite n
    (Vovk et al. 2005; Lei et al. 2018, theorem 2). The bound holds over the draw of the calibration prompts, too.

    Raises:
        ThresholdError: the rate is not in (0, 1), or there are too few scores for it.

    >>> conformal_quantile([0.1, 0.4, 0.2, 0.3], 0.25)
    0.4
    """
    return sorted(scores)[_conformal_rank(len(scores), max_fpr) - 1]


def _conformal_rank(count: int, max_fpr: float) -> int:
    if not 0 < max_fpr < 1:
        raise ThresholdError(f"max_fpr={max_fpr}: a rate lies between 0 and 1, such as 0.01.")
    rate = Fraction(str(max_fpr))  # as written, so that 0.1 of 10 is 1
    rank = count + 1 - math.floor((count + 1) * rate)
    if rank > count:
        needed = math.ceil(1 / rate) - 1
        raise ThresholdError(
            f"{count} prompts are too few for a false positive rate of {max_fpr:g}: it takes at least {needed}."
        )
    return rank
