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
    """The noise level of a timestep, or of one timestep for each sample.

    Args:
        kind: what the denoiser predicts.
        signal, sigma: the weights of image and noise in a noisy sample: numbers, or tensors
            (B, 1, 1, 1) for samples at levels of their own.

    Examples:
        >>> import torch
        >>> level = NoiseLevel("epsilon", 0.6, 0.8)
        >>> sample, noise = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.5)
        >>> level.removed(noise, sample).item(), level.score_scale
        (0.6666666865348816, 1.25)
    """

    kind: Prediction
    signal: float | Tensor
    sigma: float | Tensor

    @classmethod
    def of(cls, scheduler: Any, timestep: Tensor) -> NoiseLevel:
        """Return the noise level at which a scheduler's timestep, (), lies."""
        if not isinstance(scheduler, DDIMScheduler):
            sigma = float(timestep) / float(scheduler.config.num_train_timesteps)
            return cls("flow", 1 - sigma, sigma)
        cumulative = float(scheduler.alphas_cumprod[int(timestep)])
        kind = scheduler.config.prediction_type
        return cls(kind, math.sqrt(cumulative), math.sqrt(1 - cumulative))

    @classmethod
    def of_each(cls, scheduler: Any, timesteps: Tensor, device: torch.device) -> NoiseLevel:
        """Return the noise levels at which timesteps, (B,), lie; below 0 is the end of sampling."""
        if isinstance(scheduler, DDIMScheduler):
            kind = scheduler.config.prediction_type
            table = scheduler.alphas_cumprod.double()
            inside = table[timesteps.long().clamp_min(0).cpu()]
            last = torch.as_tensor(scheduler.final_alpha_cumprod).double()
            power = torch.where(timesteps.cpu() < 0, last, inside)
            signal, sigma = power.sqrt(), (1 - power).sqrt()
        else:
            kind = "flow"
            count = int(scheduler.config.num_train_timesteps)
            sigma = (timesteps.double().cpu() / count).clamp_min(0)
            signal = 1 - sigma
        weights = (share.float().view(-1, 1, 1, 1).to(device) for share in (signal, sigma))
        return cls(kind, *weights)

    def noisy(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Add noise to clean latents or images."""
        return self.signal * clean + self.sigma * noise

    def wanted(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Return what a perfect model predicts for clean latents with noise."""
        if self.kind == "epsilon":
            return noise
        if self.kind == "sample":
            return clean
        if self.kind == "flow":
            return noise - clean
        return self.signal * noise - self.sigma * clean

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
        return prediction if self.kind == "epsilon" else -self.clean(prediction, sample)

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

    def clean(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """Return the predicted clean image, whatever the denoiser predicts."""
        if self.kind == "epsilon":
            return (sample - self.sigma * prediction) / self.signal
        if self.kind == "flow":
            return sample - self.sigma * prediction
        if self.kind == "sample":
            return prediction
        return self.signal * sample - self.sigma * prediction

    def scored(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """Return the predicted noise, which is the score up to `score_scale`, for first steps.

        For flows, and where a sample holds no signal, it is minus the clean image (or the predicted
        noise), because the noise there is the sample itself, with any text.
        """
        blind = self.kind == "flow" or self.signal == 0
        return (self.estimate if blind else self.noise)(prediction, sample)

    @property
    def score_scale(self) -> float | Tensor:
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
