"""Latents at any noise level, for every kind of prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from unmemorize.pipelines._model import Model
from unmemorize.pipelines._noise_level import NoiseLevel
from unmemorize.pipelines._sampler import sampler

_LEAST, _GROWTH = 0.25, 2.5
"""What errors of predicted noise count at the least noisy timestep, and the exponent of how that
grows to the noisiest."""


@dataclass(frozen=True)
class Noisy:
    """Latents with noise.

    Args:
        latents: (B, C, H, W).
        timesteps: one for each, (B,).
        wanted: what a perfect model predicts, (B, C, H, W).
    """

    latents: Tensor
    timesteps: Tensor
    wanted: Tensor


class Noising:
    """The noise schedule of a model.

    Args:
        model: the model. It predicts noise, the sample, v, or the flow of flow matching.
    """

    def __init__(self, model: Model) -> None:
        self._scheduler = sampler(model.pipe)
        self._device, self._dtype = model.device, model.dtype

    def error_weights(self, levels: Tensor) -> Tensor:
        """Return how much errors of predictions count in a training by predictions, (B,).

        Errors of predicted noise are small where there is much noise, and images are decided there.
        So they count .25 at the least noisy timestep and 3 at the noisiest, about 1 in the mean.
        Other predictions count alike.

        Args:
            levels: as in `noisy`.
        """
        if self._level(torch.zeros(1, dtype=torch.float32)).kind != "epsilon":
            return torch.ones_like(levels)
        return _LEAST * torch.exp(_GROWTH * levels)

    def noisy(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Noisy:
        """Add noise to latents.

        Args:
            clean: latents, (B, C, H, W), float32.
            noise: normal noise of that shape.
            levels: in [0, 1), (B,): 0 is the least noisy timestep, and they are equally likely in
                training.
        """
        clean, noise = clean.to(self._device), noise.to(self._device)
        timesteps = (levels * int(self._scheduler.config.num_train_timesteps)).long()
        if not isinstance(self._scheduler, DDIMScheduler):  # at flow time 0 there is no noise
            timesteps = timesteps.float() + 1
        level = self._level(timesteps)
        latents = level.noisy(clean, noise).to(self._dtype)
        return Noisy(latents, timesteps.to(self._device), level.wanted(clean, noise))

    def moved(self, latents: Tensor, prediction: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """Move latents along the model's deterministic path from one timestep to another.

        In the direction of sampling this is a step of DDIM, or an Euler step of a flow.

        Args:
            latents: (B, C, H, W), float32.
            prediction: of the model, at ``latents`` or near.
            here, there: timesteps, (B,); below 0 is the end of sampling.
        """
        level = self._level(here)
        clean, noise = level.clean(prediction, latents), level.noise(prediction, latents)
        return self._level(there).noisy(clean, noise)

    def _level(self, timesteps: Tensor) -> NoiseLevel:
        return NoiseLevel.of_each(self._scheduler, timesteps, self._device)
