"""The score above which a prompt counts as memorized, and the distribution it comes from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from diffusers import DiffusionPipeline

from unmemorize._errors import ThresholdError
from unmemorize._files import as_path, atomic_write, from_json, read_json, to_json
from unmemorize.detection._cascade import Cascade
from unmemorize.detection._ms_ssim import kernel_size
from unmemorize.detection._noise import NoiseSettings, evaluated_timestep
from unmemorize.pipelines import Model

SCHEMA = "unmemorize.threshold/2"
SEED_SIMILARITY = "seed-similarity"

Reduction = Literal["pairs", "prompts", "conformal", "given"]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A calibrated threshold for one detector and one model.

    Args:
        detector: the name of the detector, see `Detector`.
        tau: the score above which a prompt counts as memorized. For seed similarity it is also the
            similarity to another seed above which a seed counts as memorized.
        tau_seeds: the mean pairwise similarity of a prompt's seeds above which they still agree
            (criterion "seeds"); None where it is not known.
        reduction: tau is mean + standard deviations over all pairs of seeds ("pairs") or over each
            prompt's score ("prompts"), the "conformal" quantile of the scores, or was "given".
        deviations: how many standard deviations; 0 for the last two.
        mean, std: the distribution that was reduced. For a conformal tau it is that of the scores;
            for a given one it is tau itself and 0.
        max_fpr: the false positive rate that a conformal tau bounds.
        cascade: which seeds to look at first, and when to stop; None where it is not known.
        highest: the score of each calibration prompt.
        means: for each calibration prompt the mean similarity over its pairs of seeds.
        settings: how noise differences are made. Results under other settings refuse it.
        kernel: the size of the MS-SSIM kernel.
        timestep: the timestep that was evaluated. Another scheduler may space its steps otherwise.
        fingerprint: the model, see `Model.fingerprint`.
        prompts: a hash of the calibration prompts.
    """

    detector: str = SEED_SIMILARITY
    tau: float
    tau_seeds: float | None
    reduction: Reduction
    deviations: float
    mean: float
    std: float
    max_fpr: float | None = None
    cascade: Cascade | None = None
    highest: tuple[float, ...] = field(repr=False)
    means: tuple[float, ...] = field(repr=False)
    settings: NoiseSettings
    kernel: int
    timestep: float
    fingerprint: str
    prompts: str

    def __post_init__(self) -> None:
        numbers = {"tau": self.tau, "mean": self.mean, "std": self.std, "timestep": self.timestep}
        if self.tau_seeds is not None:
            numbers["tau_seeds"] = self.tau_seeds
        for name, number in numbers.items():
            if not np.isfinite(number):
                raise ThresholdError(f"{name}={number}: must be a finite number.")
        if self.cascade and sorted(self.cascade.order) != list(range(self.settings.seeds)):
            raise ThresholdError(
                f"a cascade over the seeds {list(self.cascade.order)} is none over "
                f"{self.settings.seeds} seeds."
            )
        if self.cascade and self.settings.similarity == "published":
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
            tau=tau,
            tau_seeds=None,
            reduction="given",
            deviations=0.0,
            mean=tau,
            std=0.0,
            highest=(),
            means=(),
            settings=settings,
            kernel=kernel_size(min(model.latent_shape[1:])),
            timestep=float(evaluated_timestep(model, settings)),
            fingerprint=model.fingerprint,
            prompts="",
        )

    def shifted(self, deviations: float) -> Threshold:
        """Move both thresholds by a number of their standard deviations.

        This shows how much a result depends on the threshold.

        Raises:
            ThresholdError: the threshold is not a mean plus standard deviations.
        """
        if self.reduction not in ("pairs", "prompts") or self.tau_seeds is None:
            raise ThresholdError(
                f"a {self.reduction} threshold has no standard deviation to move by. "
                "Calibrate over pairs or prompts."
            )
        return replace(
            self,
            tau=self.tau + deviations * self.std,
            tau_seeds=self.tau_seeds + deviations * float(np.std(self.means, ddof=1)),
            cascade=None,
            deviations=self.deviations + deviations,
        )

    def of_criterion(self, criterion: Literal["unblocked", "seeds"]) -> float:
        """Return the threshold of the score that localization uses.

        Raises:
            ThresholdError: it is not known for this criterion, or the threshold belongs to a
                detector that does not compare seeds.
        """
        if self.detector != SEED_SIMILARITY:
            raise ThresholdError(
                f"a threshold of the detector {self.detector} says nothing about similarities. "
                f"Localize with one of {SEED_SIMILARITY}."
            )
        if criterion == "unblocked":
            return self.tau
        if self.tau_seeds is None:
            raise ThresholdError(
                'a given threshold has no value for the criterion "seeds". Calibrate one, or use '
                "the criterion unblocked."
            )
        return self.tau_seeds

    def check(self, model: Model, settings: NoiseSettings) -> None:
        """Refuse another model or other settings than those of the calibration.

        Raises:
            ThresholdError: the model, the settings, or the timestep that the scheduler leads to
                differ.
        """
        if self.fingerprint != model.fingerprint:
            raise ThresholdError(
                f"the threshold belongs to another model (fingerprint {self.fingerprint[:12]}; "
                f"{model.name} has {model.fingerprint[:12]}). Calibrate one for this model: "
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
        if schema != SCHEMA:
            raise ThresholdError(
                f"{path}: not a threshold file of schema {SCHEMA}. Make it with: "
                "unmemorize threshold"
            )
        way_out = "Make it again with: unmemorize threshold"
        settings = content.get("settings")
        if isinstance(settings, dict) and "similarity" not in settings:
            raise ThresholdError(
                f"{path}: does not say which similarity it belongs to. It was made when the "
                f"installed torchmetrics decided. {way_out}"
            )
        return from_json(cls, content, ThresholdError, f"{path}: malformed", way_out)
