"""The levels that scores are compared with in detection and in localization."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from diffusers import DiffusionPipeline

from unmemorize._checked import check_fields
from unmemorize._errors import ThresholdError
from unmemorize._files import as_path, atomic_write, from_json, read_json, to_json
from unmemorize.detection._cascade import Cascade
from unmemorize.detection._detector import Detector, fitted_settings, settings_of
from unmemorize.detection._detectors import make_detector
from unmemorize.detection._ms_ssim import kernel_size
from unmemorize.detection._noise import NoiseSettings, evaluated_timestep
from unmemorize.pipelines import Model

SCHEMA = "unmemorize.threshold/3"
_OLD_SCHEMAS = ("unmemorize.threshold/1", "unmemorize.threshold/2")
SEED_SIMILARITY = "seed-similarity"
_WAY_OUT = "Make it again with: unmemorize threshold"

Reduction = Literal["conformal", "prompts", "pairs", "given"]
"""How a level follows from the scores of unmemorized prompts, see `Calibration`."""


@dataclass(frozen=True, kw_only=True)
class DetectionLevel:
    """The score above which a detector calls a prompt memorized.

    Args:
        detector: the name of the detector, see `Detector`.
        tau: the level of its score.
        reduction: tau is the "conformal" quantile of the scores, their mean + standard deviations
            ("prompts"), the same over all pairs of seeds ("pairs"), or was "given".
        max_fpr: the false positive rate that a conformal tau bounds, for captions like those of
            the calibration.
        scores: the score of each calibration prompt.
        cascade: which seeds to look at first, and when to stop; None where it is not known.
        settings: the settings of the detector, see `Detector`. Those of seed similarity are
            `Threshold.settings`.
    """

    detector: str = SEED_SIMILARITY
    tau: float
    reduction: Reduction
    max_fpr: float | None = None
    scores: tuple[float, ...] = field(default=(), repr=False)
    cascade: Cascade | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, ThresholdError)

    def made(self) -> Detector:
        """Make the detector.

        Raises:
            ThresholdError: there is none of this name, or it has other settings by now.
        """
        return make_detector(self.detector, self.settings)

    def check(self, detector: Detector) -> None:
        """Refuse another detector than that of the calibration, or other settings of it.

        Raises:
            ThresholdError: they differ.
        """
        if detector.name != self.detector:
            raise ThresholdError(
                f"the threshold was calibrated for the detector {self.detector}, not for "
                f"{detector.name}. Use that one, or calibrate again: "
                f"unmemorize threshold --detector {detector.name}"
            )
        found = fitted_settings(detector)
        for name, now in settings_of(detector).items():
            before = self.settings.get(name)
            if name not in found and before != now:
                raise ThresholdError(
                    f"the threshold was calibrated with {name}={before} of {self.detector}, but "
                    f"{name}={now} is asked for. Use the same settings, or calibrate again."
                )


@dataclass(frozen=True, kw_only=True)
class LocalizationLevel:
    """The similarities that localization compares with, whatever detector called the prompt.

    Args:
        tau: the similarity to another seed above which a seed counts as memorized, and the score
            of the criterion "unblocked" above which a prompt still looks memorized.
        tau_seeds: the same for the criterion "seeds": the mean similarity over the pairs of seeds
            above which they still agree. None where it is not known.
        reduction: tau is mean + standard deviations over each prompt's highest pair ("prompts") or
            over all pairs of seeds ("pairs"), or was "given".
        deviations: how many standard deviations.
        mean, std: of what was reduced; tau itself and 0 for a given tau.
        means: for each calibration prompt the mean similarity over its pairs of seeds.
    """

    tau: float
    tau_seeds: float | None
    reduction: Literal["prompts", "pairs", "given"]
    deviations: float
    mean: float
    std: float
    means: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_fields(self, ThresholdError)

    def of_criterion(self, criterion: Literal["unblocked", "seeds"]) -> float:
        """Return the level of the score that a criterion compares.

        Raises:
            ThresholdError: it is not known for this criterion.
        """
        if criterion == "unblocked":
            return self.tau
        if self.tau_seeds is None:
            raise ThresholdError(
                'a given threshold has no value for the criterion "seeds". Calibrate one, or use '
                "the criterion unblocked."
            )
        return self.tau_seeds


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Calibrated levels for one model: one for detection, one for localization.

    Args:
        detect: above which score a prompt is called memorized.
        localize: the similarities that localization compares with.
        settings: how noise differences are made. Results under other settings refuse it.
        kernel: the size of the MS-SSIM kernel.
        timestep: the timestep that was evaluated. Another scheduler may space its steps otherwise.
        fingerprint: the model, see `Model.fingerprint`.
        prompts: a hash of the calibration prompts.
    """

    detect: DetectionLevel
    localize: LocalizationLevel
    settings: NoiseSettings
    kernel: int
    timestep: float
    fingerprint: str
    prompts: str

    def __post_init__(self) -> None:
        check_fields(self, ThresholdError)
        cascade = self.detect.cascade
        if cascade and sorted(cascade.order) != list(range(self.settings.seeds)):
            raise ThresholdError(
                f"a cascade over the seeds {list(cascade.order)} is none over "
                f"{self.settings.seeds} seeds."
            )
        if cascade and self.settings.similarity == "published":
            raise ThresholdError(
                "similarity=published: it has no cascade, since the similarity of two seeds "
                "depends on all others. Calibrate again, or leave the cascade out."
            )

    @classmethod
    def given(
        cls,
        pipe: DiffusionPipeline | Model,
        tau: float,
        settings: NoiseSettings | None = None,
    ) -> Threshold:
        """Take a threshold from elsewhere, such as the paper's 0.428 for Stable Diffusion v1.4.

        The number serves both detection and localization.

        Args:
            pipe: a loaded pipeline.
            tau: the threshold, in (0, 1).
            settings: how the noise differences that it belongs to are made and compared. By
                default as in the published code, since published numbers belong to its similarity.

        Raises:
            ThresholdError: tau is not a similarity.
        """
        if not 0 < tau < 1:
            raise ThresholdError(
                f"tau={tau}: a similarity lies between 0 and 1. The paper's for Stable Diffusion "
                "v1.4 is 0.428."
            )
        model, settings = Model.of(pipe), settings or NoiseSettings.published()
        return cls(
            detect=DetectionLevel(tau=tau, reduction="given"),
            localize=LocalizationLevel(
                tau=tau, tau_seeds=None, reduction="given", deviations=0.0, mean=tau, std=0.0
            ),
            settings=settings,
            kernel=kernel_size(min(model.latent_shape[1:])),
            timestep=float(evaluated_timestep(model, settings)),
            fingerprint=model.fingerprint,
            prompts="",
        )

    def calling_all(self) -> Threshold:
        """Return a threshold that calls every prompt memorized, with the same localization.

        This is for prompts that are known to be memorized by their images.
        """
        return replace(self, detect=DetectionLevel(tau=_BELOW_ALL, reduction="given"))

    def check(self, model: Model, settings: NoiseSettings) -> None:
        """Refuse another model or other settings than those of the calibration.

        Raises:
            ThresholdError: the model, the settings, or the timestep that the scheduler leads to
                differ.
        """
        if self.fingerprint != model.fingerprint:
            raise ThresholdError(
                f"the threshold belongs to another model ({model.contrast(self.fingerprint)}). "
                "Calibrate one for this model: "
                f"unmemorize threshold --model {model.name}"
            )
        for name, now in asdict(settings).items():
            before = getattr(self.settings, name)
            if before != now:
                raise ThresholdError(
                    f"the threshold was calibrated with {name}={before}, but this run has "
                    f"{name}={now}. Use the same settings, or calibrate again."
                )
        timestep = float(evaluated_timestep(model, settings))
        if timestep != self.timestep:
            raise ThresholdError(
                f"the threshold was calibrated at timestep {self.timestep:g}, but the scheduler of "
                f"{model.name} leads to {timestep:g}. Set the scheduler that it was calibrated "
                "with, or calibrate again."
            )

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        content = {"schema": SCHEMA, **to_json(self)}
        atomic_write(Path(path), json.dumps(content, indent=1) + "\n", ThresholdError)

    @classmethod
    def load(cls, path: str | Path) -> Threshold:
        """Read a threshold file.

        Raises:
            ThresholdError: the file is missing or malformed.
        """
        content = read_json(
            as_path(path, ThresholdError, "threshold file"), ThresholdError, "threshold file"
        )
        schema = content.pop("schema", None)
        if schema in _OLD_SCHEMAS:
            raise ThresholdError(
                f"{path}: of schema {schema}, whose similarity depended on the installed "
                f"torchmetrics, and without a level for localization. {_WAY_OUT}"
            )
        if schema != SCHEMA:
            raise ThresholdError(f"{path}: not a threshold file of schema {SCHEMA}. {_WAY_OUT}")
        return from_json(cls, content, ThresholdError, f"{path}: malformed", _WAY_OUT)


_BELOW_ALL = -1.0
"""Below every similarity."""
