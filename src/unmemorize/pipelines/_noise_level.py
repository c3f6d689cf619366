"""What a prediction says at one noise level: of the noise, the clean image and the score.

Denoisers predict noise, velocity, the clean image or a flow. Methods that were published for one
kind are stated here for all of them. A noisy sample is signal * image + sigma * noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]


@dataclass(frozen=True)
class NoiseLevel:
    """The noise level of a timestep.

    Args:
        kind: what the denoiser predicts.
        signal, sigma: the weights of image and noise in a noisy sample.

    Examples:
        >>> import torch
        >>> level = NoiseLevel("epsilon", 0.6, 0.8)
        >>> sample, noise = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.5)
        >>> level.removed(noise, sample).item(), level.score_scale
        (0.6666666865348816, 1.25)
    """

    kind: Prediction
    signal: float
    sigma: float

    @classmethod
    def of(cls, scheduler: Any, timestep: Tensor) -> NoiseLevel:
        """Return the noise level at which a scheduler's timestep, (), lies."""
        if not isinstance(scheduler, DDIMScheduler):
            sigma = float(timestep) / float(scheduler.config.num_train_timesteps)
            return cls("flow", 1 - sigma, sigma)
        cumulative = float(scheduler.alphas_cumprod[int(timestep)])
        kind = scheduler.config.prediction_type
        return cls(kind, math.sqrt(cumulative), math.sqrt(1 - cumulative))

    def noisy(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Add noise to clean latents or images."""
        return self.signal * clean + self.sigma * noise

    def apart(self, change: Tensor) -> Tensor:
        """Return how far two predictions of the same samples are apart.

        Args:
            change: one prediction minus the other, (B, C, H, W).

        Returns:
            2-norms of the change of `difference`, in which the samples cancel out, (B,).
        """
        moved = self.difference(change, torch.zeros_like(change))
        norms: Tensor = moved.flatten(1).norm(dim=1)
        return norms

    def estimate(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """Return the predicted noise of a model that predicts noise, else minus the clean image.

        A velocity at the first steps says next to nothing of the noise, which is in the sample.
        """
        if self.kind == "epsilon":
            return prediction
        if self.kind == "sample":
            return -prediction
        if self.kind == "flow":
            return prediction * self.sigma - sample
        return self.sigma * prediction - self.signal * sample

    def difference(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """Return where a prediction leads away from the noise, see `Model.difference`."""
        estimate = self.estimate(prediction, sample)
        return estimate - sample if self.kind == "epsilon" else estimate

    def noise(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """Return the predicted noise, whatever the denoiser predicts."""
        if self.kind == "epsilon":
            return prediction
        if self.kind == "flow":
            return sample + self.signal * prediction
        if self.kind == "sample":
            return (sample - self.signal * prediction) / self.sigma
        return self.signal * prediction + self.sigma * sample

    def scored(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """Return the predicted noise, which is the score up to `score_scale`, for first steps.

        For flows it is minus the clean image, because at their first step the predicted noise is
        the sample itself, with any text.
        """
        space = self.estimate if self.kind == "flow" else self.noise
        return space(prediction, sample)

    @property
    def score_scale(self) -> float:
        """The size of the score relative to `scored`: score = -noise / sigma."""
        return 1.0 if self.kind == "flow" else 1 / self.sigma

    def removed(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """Return what a denoiser takes away from image + noise of strength sigma / signal.

        Where a sample holds no signal, and for flows, it is the sample minus the clean image.
        """
        if self.kind == "flow":
            return self.sigma * prediction
        if self.signal == 0:
            return sample + self.estimate(prediction, sample)
        return self.sigma / self.signal * self.noise(prediction, sample)
