"""Images as latents, and latents at any noise level, for every kind of prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from unmemorize._errors import AuditError
from unmemorize.metrics import to_rgb
from unmemorize.pipelines import Model, NoiseLevel, encoded, sampler


def latent_of(
    model: Model, image: Image.Image, change: Callable[[Tensor, int], Tensor] | None = None
) -> Tensor:
    """Encode an image as the model's training did, at the model's own size.

    Args:
        model: the model.
        image: an image of any size. The largest centred square is taken.
        change: changes the pixels, (1, 3, H, W), before they are encoded. Its second argument is
            the number of pixels per latent along a side.

    Returns:
        The mode of its latent distribution, (C, H, W), float32. Models that work on pixels have no
        latents; for them it is the image itself, in [-1, 1].

    Raises:
        AuditError: the autoencoder is of another kind.
    """
    channels, height, width = model.latent_shape
    vae = getattr(model.pipe, "vae", None)
    factor = model.pipe.vae_scale_factor if vae is not None else 1
    if vae is not None and model.layout.packed:
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
    pixels = _pixels(image, width * factor, height * factor).to(model.device)
    if change is not None:
        pixels = change(pixels, factor)
    if vae is None:
        return pixels[0]
    latent = encoded(model, pixels)[0].float()
    if latent.shape != (channels, height, width):
        raise AuditError(
            f"{model.name}: its {type(vae).__name__} makes latents of the shape "
            f"{tuple(latent.shape)}, and its denoiser takes {(channels, height, width)}. "
            "Audit another pipeline of this model."
        )
    return latent


def _pixels(image: Image.Image, width: int, height: int) -> Tensor:
    """Return the largest centred square of an image, resized, (1, 3, H, W) in [-1, 1]."""
    rgb = to_rgb(image)
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    square = rgb.crop((left, top, left + side, top + side))
    resized = square.resize((width, height), Image.Resampling.BICUBIC)
    array = np.asarray(resized, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(array).permute(2, 0, 1)[None]


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

    @property
    def predicts_noise(self) -> bool:
        """Whether the model predicts noise, so that its errors are small where there is much."""
        return self._level(torch.zeros(1, dtype=torch.float32)).kind == "epsilon"

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
