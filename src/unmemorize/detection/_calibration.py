"""Step 2: calibrate the threshold of a detector on prompts that are not memorized."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import DiffusionPipeline

from unmemorize._errors import RunError, ThresholdError
from unmemorize._files import from_json, hash_texts, to_json
from unmemorize._prompts import Prompt, as_prompts
from unmemorize.detection._cascade import Cascade
from unmemorize.detection._conformal import conformal_quantile, conformal_rank
from unmemorize.detection._detector import Score
from unmemorize.detection._detectors import make_detector
from unmemorize.detection._ms_ssim import kernel_size
from unmemorize.detection._noise import NoiseSettings, evaluated_timestep
from unmemorize.detection._similarity import matrix_of
from unmemorize.detection._threshold import SEED_SIMILARITY, Threshold
from unmemorize.detection._trace import Trace
from unmemorize.engines import Execution, Finished, UnitFunction
from unmemorize.neurons import refuse_switched_off
from unmemorize.pipelines import Model
from unmemorize.runs import drive, given_or_temporary, open_run, prompt_count, stream_prompts

_DEVIATIONS_SEEDS = 2.0
"""Standard deviations above the mean for the criterion "seeds" (METHOD: tau of a mean of pairs)."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How tau follows from the scores of prompts that are not memorized.

    Args:
        reduction: whether tau is a mean plus standard deviations over all pairs of seeds ("pairs")
            or over each prompt's score ("prompts"). The paper's text allows both readings; its
            numbers (0.358 + 0.07) are those over pairs. Detectors that do not compare seeds know
            "prompts" only.
        deviations: how many standard deviations above the mean tau lies; 1 in the paper.
        max_fpr: a bound in (0, 1) of the false positive rate. It takes the place of the other two,
            see `conformal_quantile`.
    """

    reduction: Literal["pairs", "prompts"] = "pairs"
    deviations: float = 1.0
    max_fpr: float | None = None

    def __post_init__(self) -> None:
        if self.reduction not in ("pairs", "prompts"):
            raise ThresholdError(f"reduction {self.reduction!r}: unknown. Use pairs or prompts.")

    @classmethod
    def published(cls) -> Calibration:
        """Make the reduction of published thresholds: mean + 1 deviation over all pairs."""
        return cls(reduction="pairs", deviations=1.0)

    def check(self, count: int) -> None:
        """Refuse too few prompts before the work begins.

        Raises:
            ThresholdError: there are too few.
        """
        if count < 2:
            raise ThresholdError(
                f"{count} prompt(s): a threshold needs at least 2 unmemorized prompts, better 200."
            )
        if self.max_fpr is not None:
            conformal_rank(count, self.max_fpr)

    def threshold(
        self,
        model: Model,
        detector: str,
        settings: NoiseSettings,
        texts: Sequence[str],
        scores: Sequence[Score],
    ) -> Threshold:
        """Reduce the scores of all prompts to a threshold.

        Args:
            model, detector, settings: what made the scores.
            texts: the prompts.
            scores: their scores.
        """
        highest = torch.tensor([score.value for score in scores], dtype=torch.float64)
        pairs = torch.tensor([score.pairs for score in scores], dtype=torch.float64)
        over_pairs = self.reduction == "pairs" and self.max_fpr is None and pairs.numel()
        reduced = pairs.flatten() if over_pairs else highest
        mean, std = float(reduced.mean()), float(reduced.std())
        if self.max_fpr is None:
            tau = mean + self.deviations * std
        else:
            tau = conformal_quantile(highest.tolist(), self.max_fpr)
        means = pairs.mean(1) if pairs.numel() else torch.empty(0)
        tau_seeds = float(means.mean() + _DEVIATIONS_SEEDS * means.std()) if len(means) else None
        cascades = pairs.numel() and settings.similarity != "published"
        matrices = matrix_of(pairs, settings.seeds) if cascades else None
        reduction = self.reduction if over_pairs else "prompts"
        return Threshold(
            detector=detector,
            tau=tau,
            tau_seeds=tau_seeds,
            reduction=reduction if self.max_fpr is None else "conformal",
            deviations=self.deviations if self.max_fpr is None else 0.0,
            mean=mean,
            std=std,
            max_fpr=self.max_fpr,
            cascade=None if matrices is None else Cascade.learn(matrices, tau),
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
    """What determines the scores of a calibration, besides the model and the prompts.

    Args:
        detector: the name of the detector.
        noise: how noise differences are made.
    """

    kind: ClassVar[str] = "calibration"

    detector: str
    noise: NoiseSettings


@dataclass(frozen=True)
class CalibrationTask:
    """The scores of prompts as a `Task`."""

    settings: CalibrationRun
    kind: str = "scores"
    size: int = 1

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""
        refuse_switched_off(model)
        noise = self.settings.noise
        model.guidance(noise.guidance)  # refuses pipelines without guidance
        detector = make_detector(self.settings.detector)

        def work(texts: Sequence[str]) -> list[Finished]:
            trace = Trace(model, texts, noise)
            return [Finished(to_json(score)) for score in detector.score(trace)]

        return work


def calibrate_threshold(
    pipe: DiffusionPipeline | Model,
    prompts: Iterable[str | Prompt],
    *,
    detector: str = SEED_SIMILARITY,
    settings: NoiseSettings | None = None,
    calibration: Calibration | None = None,
    folder: str | Path | None = None,
    execution: Execution | None = None,
) -> Threshold:
    """Calibrate the threshold of a detector on prompts that are not memorized.

    Args:
        pipe: a loaded pipeline.
        prompts: at least two unmemorized prompts, which the statistics need not have seen.
        detector: the name of the detector.
        settings: how noise differences are made.
        calibration: how tau follows from the scores.
        folder: a run folder in which an interrupted calibration is resumed. It stays; without one
            a temporary folder is used.
        execution: who does the work.

    Raises:
        ThresholdError: too few prompts, an unknown detector, or a prompt fails.
        PromptError: ``prompts`` is a single text.
        RunError: the run folder holds another run or cannot be written.
    """
    model = Model.of(pipe)
    calibration = calibration or Calibration()
    run_settings = CalibrationRun(detector=detector, noise=settings or NoiseSettings())
    make_detector(detector)
    if execution is not None and execution.shard is not None:
        raise ThresholdError(
            "a threshold needs all of its prompts, so a shard of them is not enough. "
            "Leave the shard out."
        )
    way_out = f"delete {folder} to start again"
    with given_or_temporary(folder) as place:
        run = open_run(place, model, as_prompts(prompts), run_settings, way_out=way_out)
        calibration.check(prompt_count(run))
        task, texts = CalibrationTask(run_settings), [prompt.text for prompt in stream_prompts(run)]
        tally = drive(run, model, task, enumerate(texts), len(texts), execution)
        for index, error in tally.failed.items():
            raise ThresholdError(
                f"prompt {texts[index][:60]!r} fails ({error.rstrip('.')}). "
                "If it is that prompt, leave it out."
            )
        scores = [_score(record) for _, record in run.stream(task.kind)]
    return calibration.threshold(model, detector, run_settings.noise, texts, scores)


def _score(record: dict[str, Any]) -> Score:
    way_out = "Delete the run folder and start again."
    return from_json(Score, record, RunError, "malformed score of a calibration", way_out)
