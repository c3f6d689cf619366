"""Step 2: calibrate a threshold on prompts that are not memorized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._checked import check_fields
from unmemorize._errors import RunError, ThresholdError
from unmemorize._files import from_json, hash_texts, to_json
from unmemorize._prompts import Prompt, as_ordinary
from unmemorize.detection._cascade import Cascade
from unmemorize.detection._conformal import (
    FITTING,
    conformal_quantile,
    prompts_needed,
    smallest_rate,
    too_few,
)
from unmemorize.detection._detector import Detector, Weighing, settings_of, watched_by
from unmemorize.detection._detectors import as_detector, make_detector
from unmemorize.detection._ms_ssim import kernel_size
from unmemorize.detection._noise import NoiseSettings, evaluated_timestep
from unmemorize.detection._noise_magnitude import LateNoiseMagnitude
from unmemorize.detection._seed_similarity import SeedSimilarity
from unmemorize.detection._similarity import matrix_of
from unmemorize.detection._threshold import (
    SEED_SIMILARITY,
    DetectionLevel,
    LocalizationLevel,
    Threshold,
)
from unmemorize.detection._trace import Trace
from unmemorize.detection._without_text import is_distilled
from unmemorize.engines import Execution, Finished, UnitFunction
from unmemorize.pipelines import Model
from unmemorize.runs import drive, given_or_temporary, open_run, prompt_count, stream_prompts

USUAL_RATE = 0.01
"""The false positive rate that is bounded if the number of prompts allows it."""
_DEVIATIONS_SEEDS = 2.0
"""Standard deviations above the mean for the criterion "seeds" (METHOD: tau of a mean of pairs)."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How the levels of a threshold follow from the scores of prompts that are not memorized.

    Args:
        reduction: how the level of detection is chosen. "conformal" bounds the rate of false
            positives. "prompts" and "pairs" are the two readings of the paper, mean + standard
            deviations over each prompt's highest pair or over all pairs of seeds. They give one
            number to both detection and localization, and over pairs most ordinary prompts lie
            above it. Localization uses "prompts" under "conformal".
        deviations: how many standard deviations above the mean a level lies; 1 in the paper.
        max_fpr: the rate of false positives that "conformal" bounds, in (0, 1). By default 0.01, or
            the smallest that the number of prompts allows.

    Raises:
        ThresholdError: a value is of another type, the reduction is unknown, or a rate is given
            that it does not use.
    """

    reduction: Literal["conformal", "prompts", "pairs"] = "conformal"
    deviations: float = 1.0
    max_fpr: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, ThresholdError)
        if self.max_fpr is not None and self.reduction != "conformal":
            raise ThresholdError(
                f"max_fpr={self.max_fpr:g}: reduction={self.reduction} bounds no rate. "
                "Use the reduction conformal."
            )

    @classmethod
    def published(cls) -> Calibration:
        """Make the reduction of published thresholds: mean + 1 deviation over all pairs."""
        return cls(reduction="pairs", deviations=1.0)

    def rate(self, count: int) -> float:
        """Return the rate of false positives that is bounded with so many prompts.

        Examples:
            >>> Calibration().rate(500), Calibration().rate(24)
            (0.01, 0.04)
        """
        return smallest_rate(count, USUAL_RATE) if self.max_fpr is None else self.max_fpr

    def check(self, count: int, detector: Detector) -> None:
        """Refuse too few prompts before the work begins.

        Raises:
            ThresholdError: there are too few.
        """
        if count < 2:
            raise ThresholdError(
                f"{count} prompt(s): a threshold needs at least 2 unmemorized prompts, better 200."
            )
        left = count - _fitting(detector, count)
        if left < 2:
            raise ThresholdError(
                f"{count} prompts: {detector.name} takes 2 of them for the units of its parts, "
                "and a threshold needs at least 2 more, better 200."
            )
        if self.reduction == "conformal":
            rate = self.rate(left)
            needed = calibration_prompts(detector, prompts_needed(rate))
            if count < needed:
                raise ThresholdError(too_few(count, rate, needed))

    def threshold(
        self,
        model: Model,
        detector: Detector,
        settings: NoiseSettings,
        texts: Sequence[str],
        scores: Sequence[PromptScores],
    ) -> Threshold:
        """Reduce the scores of all prompts to a threshold.

        A detector that weighs parts gets its units from the first fifth of the prompts, and its
        level from the others, since the bound holds for prompts that chose nothing.

        Args:
            model, detector, settings: what made the scores.
            texts: the prompts.
            scores: their scores.
        """
        pairs = torch.tensor([each.pairs for each in scores], dtype=torch.float64)
        localize = self._localize(pairs)
        detector, count = with_units(detector, [each.parts for each in scores])
        values = [weighed(detector, each.value, each.parts) for each in scores[count:]]
        return Threshold(
            detect=self._detect(detector, settings, values, pairs),
            localize=localize,
            settings=settings,
            kernel=kernel_size(min(model.latent_shape[1:])),
            timestep=float(evaluated_timestep(model, settings)),
            fingerprint=model.fingerprint,
            prompts=hash_texts(texts),
        )

    def _localize(self, pairs: Tensor) -> LocalizationLevel:
        reduction: Literal["prompts", "pairs"] = "pairs" if self.reduction == "pairs" else "prompts"
        mean, std = _moments(pairs.flatten() if reduction == "pairs" else pairs.amax(1))
        means = pairs.mean(1)
        return LocalizationLevel(
            tau=mean + self.deviations * std,
            tau_seeds=float(means.mean() + _DEVIATIONS_SEEDS * means.std()),
            reduction=reduction,
            deviations=self.deviations,
            mean=mean,
            std=std,
            means=tuple(means.tolist()),
        )

    def _detect(
        self,
        detector: Detector,
        settings: NoiseSettings,
        scores: Sequence[float],
        pairs: Tensor,
    ) -> DetectionLevel:
        compares_seeds = detector.name == SEED_SIMILARITY
        reduction, rate = self.reduction, None
        if reduction == "conformal":
            rate = self.rate(len(scores))
            tau = conformal_quantile(scores, rate)
        else:
            # only seed similarity has pairs to reduce
            reduction = reduction if compares_seeds else "prompts"
            values = torch.tensor(scores, dtype=torch.float64)
            mean, std = _moments(pairs.flatten() if reduction == "pairs" else values)
            tau = mean + self.deviations * std
        cascade = None
        if compares_seeds and settings.similarity != "published":
            cascade = Cascade.learn(matrix_of(pairs, settings.seeds), tau)
        return DetectionLevel(
            detector=detector.name,
            settings=settings_of(detector),
            tau=tau,
            reduction=reduction,
            max_fpr=rate,
            scores=tuple(scores),
            cascade=cascade,
        )


def with_units(detector: Detector, parts: Sequence[tuple[float, ...]]) -> tuple[Detector, int]:
    """Give a detector that weighs parts their units; another detector stays as it is.

    Args:
        detector: the detector.
        parts: `Score.parts` of all calibration prompts.

    Returns:
        The detector, and how many of the first prompts gave the units. Its level must come from the
        others.
    """
    if not isinstance(detector, Weighing):
        return detector, 0
    count = _fitting(detector, len(parts))
    return detector.fitted(parts[:count]), count


def weighed(detector: Detector, value: float, parts: tuple[float, ...]) -> float:
    """Return the score of a detector with units, see `with_units`.

    Args:
        detector: the detector.
        value, parts: of its `Score`.
    """
    return detector.weigh(parts) if isinstance(detector, Weighing) else value


def calibration_prompts(detector: Detector, scores: int) -> int:
    """Return how many calibration prompts leave a detector so many scores for its level.

    Those that give it the units of its parts come on top, see `with_units`.

    Examples:
        >>> from unmemorize.detection import Anisotropy, NoiseMagnitude
        >>> calibration_prompts(NoiseMagnitude(), 99), calibration_prompts(Anisotropy(), 99)
        (99, 123)
    """
    if not isinstance(detector, Weighing):
        return scores
    return scores + max(2, (scores - 1) // (FITTING - 1))


def _fitting(detector: Detector, count: int) -> int:
    """Return how many of the first prompts give the units of a detector's parts."""
    return max(2, count // FITTING) if isinstance(detector, Weighing) else 0


def _moments(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std())


@dataclass(frozen=True, kw_only=True)
class PromptScores:
    """What a calibration measures of one prompt.

    Args:
        value: the score of the detector.
        pairs: the similarity of each pair of seeds, in the order of `pairs_of`.
        parts: what the score is made of, see `Score`.
    """

    value: float
    pairs: tuple[float, ...]
    parts: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CalibrationRun:
    """What determines the scores of a calibration, besides the model and the prompts.

    Args:
        detector: the name of the detector.
        noise: how noise differences are made.
        settings: the settings of the detector.
    """

    kind: ClassVar[str] = "calibration"

    detector: str
    noise: NoiseSettings
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CalibrationTask:
    """The scores of prompts as a `Task`: of the detector, and of seed similarity."""

    settings: CalibrationRun
    kind: str = "scores"
    size: int = 1

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""
        noise = self.settings.noise
        model.guidance(noise.guidance)  # refuses pipelines without guidance
        detector = make_detector(self.settings.detector, self.settings.settings)
        watched = watched_by(detector)

        def work(texts: Sequence[str]) -> list[Finished]:
            trace = Trace(model, texts, noise, watched=watched)
            similarities = SeedSimilarity().score(trace)
            is_similarity = detector.name == SEED_SIMILARITY
            scores = similarities if is_similarity else detector.score(trace)
            return [
                Finished(
                    to_json(
                        PromptScores(value=score.value, pairs=similarity.pairs, parts=score.parts)
                    )
                )
                for score, similarity in zip(scores, similarities, strict=True)
            ]

        return work


def default_detector(
    pipe: DiffusionPipeline | Model,
    settings: NoiseSettings | None = None,
    calibration: Calibration | None = None,
) -> Detector:
    """Return the detector that is used where none is named.

    It is `LateNoiseMagnitude`, which finds most for least on the bundled model. Models without a
    prediction without text get `SeedSimilarity`, and so does whatever follows the published code.

    Args:
        pipe: a loaded pipeline.
        settings, calibration: as in `calibrate_threshold`.

    Examples:
        >>> from unmemorize import load_pipeline
        >>> default_detector(load_pipeline("testbed")).name
        'late-noise-magnitude'
    """
    noise, calibration = settings or NoiseSettings(), calibration or Calibration()
    follows_paper = noise.similarity == "published" or calibration.reduction != "conformal"
    if follows_paper or is_distilled(Model.of(pipe)):
        return SeedSimilarity()
    return LateNoiseMagnitude()


def calibrate_threshold(
    pipe: DiffusionPipeline | Model,
    prompts: Iterable[str | Prompt],
    *,
    detector: str | Detector | None = None,
    settings: NoiseSettings | None = None,
    calibration: Calibration | None = None,
    folder: str | Path | None = None,
    execution: Execution | None = None,
) -> Threshold:
    """Calibrate detection and localization on prompts that are not memorized.

    Localization compares seeds whatever the detector is, so both are measured at once.

    Args:
        pipe: a loaded pipeline.
        prompts: at least two unmemorized prompts, which the statistics need not have seen. Texts
            that repeat count once.
        detector: the name of the detector, or one with settings of its own. They travel with the
            threshold. By default see `default_detector`.
        settings: how noise differences are made.
        calibration: how the levels follow from the scores.
        folder: a run folder in which an interrupted calibration is resumed. It stays; without one
            a temporary folder is used.
        execution: who does the work.

    Raises:
        ThresholdError: too few prompts, an unknown detector, or a prompt fails.
        ModelError: the model has nothing that the detector looks at.
        PromptError: ``prompts`` is a single text, or one is known to be memorized.
        RunError: the run folder holds another run or cannot be written.
    """
    model = Model.of(pipe)
    settings, calibration = settings or NoiseSettings(), calibration or Calibration()
    detector = as_detector(detector or default_detector(model, settings, calibration))
    run_settings = CalibrationRun(
        detector=detector.name, noise=settings, settings=settings_of(detector)
    )
    if execution is not None and execution.shard is not None:
        raise ThresholdError(
            "a threshold needs all of its prompts, so a shard of them is not enough. "
            "Leave the shard out."
        )
    way_out = f"delete {folder} to start again"
    with given_or_temporary(folder) as place:
        run = open_run(place, model, as_ordinary(prompts), run_settings, way_out=way_out)
        calibration.check(prompt_count(run), detector)
        task, texts = CalibrationTask(run_settings), [prompt.text for prompt in stream_prompts(run)]
        tally = drive(run, model, task, enumerate(texts), len(texts), execution)
        for index, error in tally.failed.items():
            raise ThresholdError(
                f"prompt {texts[index][:60]!r} fails ({error.rstrip('.')}). "
                "If it is that prompt, leave it out."
            )
        scores = [_scores(record) for _, record in run.stream(task.kind)]
    return calibration.threshold(model, detector, run_settings.noise, texts, scores)


def _scores(record: dict[str, Any]) -> PromptScores:
    way_out = "Delete the run folder and start again."
    return from_json(PromptScores, record, RunError, "malformed score of a calibration", way_out)
