"""The similarity above which seeds agree too well, and the distribution it comes from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from diffusers import DiffusionPipeline

from unmemorize._errors import ModelError, ThresholdError
from unmemorize._files import atomic_write, read_json
from unmemorize.detection._cascade import Cascade
from unmemorize.detection._noise import NoiseSettings, evaluated_timestep
from unmemorize.detection._similarity import kernel_size
from unmemorize.pipelines import Model

SCHEMA = "unmemorize.threshold/1"

Reduction = Literal["pairs", "prompts", "conformal", "given"]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Calibrated thresholds and the distribution they come from.

    Args:
        tau: the highest similarity of a seed to another above which it counts as memorized.
        tau_seeds: the mean pairwise similarity of a prompt's seeds above which they still agree (criterion "seeds"); None when unknown.
        reduction: tau is mean + standard deviations over "pairs" (all pairs of all prompts) or over "prompts" (each one's highest pair),
            the "conformal" quantile of the highest pairs, or was "given" as a number.
        deviations: how many standard deviations; 0 for the last two.
        mean, std: of what was reduced; for a conformal tau of the highest pairs, for a given one tau itself and 0.
        max_fpr: the rate of false positives that a conformal tau bounds.
        cascade: which seeds to look at first, and when to stop; None when unknown.
        highest: per prompt its highest pair.
        means: per prompt the mean of its pairs.
        settings: of the noise differences; results under other settings refuse this threshold.
        kernel: size of the MS-SSIM kernel.
        timestep: that was evaluated; another scheduler may space its steps otherwise.
        fingerprint: of the model.
        prompts: hash of the prompts.
    """

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

    @classmethod
    def given(
        cls, pipe: DiffusionPipeline | Model, tau: float, settings: NoiseSettings | None = None
    ) -> Threshold:
        """A threshold known from elsewhere, such as the paper's 0.428 for Stable Diffusion v1.4, taken for this model.

        Args:
            pipe: a loaded pipeline.
            tau: the threshold, in (0, 1).
            settings: of the noise differences that it is meant for.

        Raises:
            ThresholdError: tau is no similarity.
        """
        if not 0 < tau < 1:
            raise ThresholdError(
                f"tau={tau}: a similarity lies between 0 and 1. The paper's for Stable Diffusion v1.4 is 0.428."
            )
        model = Model.of(pipe)
        return cls(
            tau=tau,
            tau_seeds=None,
            reduction="given",
            deviations=0.0,
            mean=tau,
            std=0.0,
            highest=(),
            means=(),
            settings=settings or NoiseSettings(),
            kernel=kernel_size(min(model.latent_shape[1:])),
            timestep=float(evaluated_timestep(model, settings or NoiseSettings())),
            fingerprint=model.fingerprint,
            prompts="",
        )

    def shifted(self, deviations: float) -> Threshold:
        """The same calibration with both thresholds moved by so many of their standard deviations, to see how much hangs on them.

        Raises:
            ThresholdError: there is no distribution, or the threshold is no mean + standard deviations.
        """
        if self.reduction not in ("pairs", "prompts") or self.tau_seeds is None:
            raise ThresholdError(
                f"a {self.reduction} threshold has no standard deviation to move by. Calibrate over pairs or prompts."
            )
        return replace(
            self,
            tau=self.tau + deviations * self.std,
            tau_seeds=self.tau_seeds + deviations * float(np.std(self.means, ddof=1)),
            cascade=None,
            deviations=self.deviations + deviations,
        )

    def of_criterion(self, criterion: Literal["unblocked", "seeds"]) -> float:
        """The threshold of the score by this criterion.

        Raises:
            ThresholdError: it is unknown for the criterion.
        """
        if criterion == "unblocked":
            return self.tau
        if self.tau_seeds is None:
            raise ThresholdError(
                'a given threshold has no value for the criterion "seeds". Calibrate one, or use the criterion unblocked.'
            )
        return self.tau_seeds

    def check(self, model: Model, settings: NoiseSettings) -> None:
        """See that the threshold holds for this model and these settings.

        Raises:
            ThresholdError: it was calibrated on another model or under other settings, or by a scheduler of other steps.
        """
        if self.fingerprint != model.fingerprint:
            raise ThresholdError(
                f"the threshold is that of another model (fingerprint {self.fingerprint[:12]}, {model.name} has {model.fingerprint[:12]}). "
                f"Calibrate one for this model: unmemorize threshold --model {model.name}"
            )
        differing = [
            name
            for name, value in asdict(self.settings).items()
            if value != getattr(settings, name)
        ]
        if differing:
            name = differing[0]
            raise ThresholdError(
                f"the threshold was calibrated with {name}={getattr(self.settings, name)}, "
                f"but this run has {name}={getattr(settings, name)}. "
                f"Use the same settings, or calibrate again."
            )
        timestep = float(evaluated_timestep(model, settings))
        if timestep != self.timestep:
            raise ThresholdError(
                f"the threshold was calibrated at timestep {self.timestep:g}, but the scheduler of {model.name} leads to {timestep:g}. "
                f"Set the scheduler that it was calibrated with, or calibrate again."
            )

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        atomic_write(
            Path(path),
            json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n",
            ThresholdError,
        )

    @classmethod
    def load(cls, path: str | Path) -> Threshold:
        """Read a threshold file.

        Raises:
            ThresholdError: the file is missing or malformed.
        """
        content = read_json(Path(path), ThresholdError, "threshold file")
        if content.pop("schema", None) != SCHEMA:
            raise ThresholdError(
                f"{path}: not a threshold file of schema {SCHEMA}. Make it with: unmemorize threshold"
            )
        try:
            threshold = cls(
                **{
                    **content,
                    "settings": _read_settings(content["settings"]),
                    "cascade": _read_cascade(content.get("cascade"), content["settings"]["seeds"]),
                    "highest": tuple(map(float, content["highest"])),
                    "means": tuple(map(float, content["means"])),
                }
            )
            numbers = [threshold.tau, threshold.mean, threshold.std, threshold.timestep]
            numbers += [] if threshold.tau_seeds is None else [threshold.tau_seeds]
            if not all(
                isinstance(number, (int, float)) and np.isfinite(number) for number in numbers
            ):
                raise ThresholdError(
                    f"{path}: the thresholds are not numbers. Make it again with: unmemorize threshold"
                )
        except (TypeError, KeyError, ValueError, OverflowError, ModelError) as problem:
            raise ThresholdError(
                f"{path}: malformed ({problem}). Make it again with: unmemorize threshold"
            ) from problem
        return threshold


def _read_settings(content: dict[str, Any]) -> NoiseSettings:
    names = {"upstream": "published"}  # as the first edition called the protocol
    protocol = content["protocol"]
    return NoiseSettings(**{**content, "protocol": names.get(protocol, protocol)})


def _read_cascade(content: Any, seeds: int) -> Cascade | None:
    if content is None:
        return None
    cascade = Cascade(
        tuple(content["order"]),
        tuple((int(count), float(level)) for count, level in content["stops"]),
    )
    if sorted(cascade.order) != list(range(seeds)):
        raise ValueError(f"a cascade over {list(cascade.order)} is not one over {seeds} seeds")
    return cascade
