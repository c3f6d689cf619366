"""The level above which a guard raises an alarm, and its file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from unmemorize._errors import ThresholdError
from unmemorize._files import as_path, atomic_write, from_json, read_json, to_json
from unmemorize.pipelines import Model

SCHEMA = "unmemorize.guard/2"
_WAY_OUT = "Make it again with: unmemorize guard"


@dataclass(frozen=True, kw_only=True)
class GuardThreshold:
    """The level of a guard, calibrated for one model.

    What the denoiser makes of the initial noise depends on the noise, the text and the timestep,
    but neither on the guidance scale nor on the sampler and its steps. So calls with any guidance
    above 1, any sampler and any number of steps may be judged, as long as they begin with noise of
    this shape.

    Args:
        tau: an image whose score is above it raises an alarm.
        max_fpr: the share of images of ordinary prompts above tau that the calibration bounds.
        timestep: at which the denoiser looks at the noise, as it receives it.
        shape: of one sample as the denoiser receives it.
        fingerprint: the model, see `Model.fingerprint`.
        prompts: a hash of the calibration prompts.
        scores: the score of each of them, one image each.

    Examples:
        >>> threshold = GuardThreshold(
        ...     tau=1.9, max_fpr=0.01, timestep=281.0, shape=(4, 16, 16), fingerprint="v2-0",
        ...     prompts="",
        ... )
        >>> threshold.tau
        1.9
    """

    tau: float
    max_fpr: float
    timestep: float
    shape: tuple[int, ...]
    fingerprint: str
    prompts: str
    scores: tuple[float, ...] = field(default=(), repr=False)

    def check(self, model: Model) -> None:
        """Refuse another model than that of the calibration.

        Raises:
            ThresholdError: it is another one.
        """
        if self.fingerprint != model.fingerprint:
            raise ThresholdError(
                f"the guard's threshold belongs to another model "
                f"({model.contrast(self.fingerprint)}). Calibrate one for this model: "
                f"unmemorize guard --model {model.name}"
            )

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse a call of the pipeline with samples of another shape.

        Raises:
            ThresholdError: the size of the images differs.
        """
        if shape != self.shape:
            raise ThresholdError(
                f"the guard was calibrated with samples of shape {self.shape}, but this call has "
                f"{shape}, and scores grow with size. Leave height and width at their defaults."
            )

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        content = {"schema": SCHEMA, **to_json(self)}
        atomic_write(Path(path), json.dumps(content, indent=1) + "\n", ThresholdError)

    @classmethod
    def load(cls, path: str | Path) -> GuardThreshold:
        """Read the threshold file of a guard.

        Raises:
            ThresholdError: the file is missing or malformed.
        """
        what = "threshold file of a guard"
        content = read_json(as_path(path, ThresholdError, what), ThresholdError, what)
        if content.pop("schema", None) != SCHEMA:
            raise ThresholdError(f"{path}: not a {what} of schema {SCHEMA}. {_WAY_OUT}")
        return from_json(cls, content, ThresholdError, f"{path}: malformed", _WAY_OUT)
