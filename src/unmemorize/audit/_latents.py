"""Images as latents, and latents at any noise level, for every kind of prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from unmemorize._errors import AuditError
from unmemorize.metrics import to_rgb
from unmemorize.pipelines import Model, encoded, sampler


def latent_of(model: Model, image: Image.Image) -> Tensor:
    """Encode an image as the model's training did, at the model's own size.

    Args:
        model: the model.
        image: an image of any size. The largest centred square is taken.

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
    """The noise schedule of a model: latents are ``signal * clean + noise_share * noise``.

    Args:
        model: the model. It predicts noise, the sample, v, or the flow of flow matching.
    """

    def __init__(self, model: Model) -> None:
        self._scheduler: Any = sampler(model.pipe)
        self._device, self._dtype = model.device, model.dtype
        self.timestep_count = int(self._scheduler.config.num_train_timesteps)
        self._diffusion = isinstance(self._scheduler, DDIMScheduler)
        self._kind = self._scheduler.config.prediction_type if self._diffusion else "flow"

    def shares(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares of signal and of noise at timesteps (B,), each (B, 1, 1, 1), float32.

        A timestep below 0 is the end of sampling.
        """
        if self._diffusion:
            table = self._scheduler.alphas_cumprod.double()
            inside = table[timesteps.long().clamp_min(0).cpu()]
            last = torch.as_tensor(self._scheduler.final_alpha_cumprod).double()
            power = torch.where(timesteps.cpu() < 0, last, inside)
            signal, noise = power.sqrt(), (1 - power).sqrt()
        else:
            noise = (timesteps.double().cpu() / self.timestep_count).clamp_min(0)
            signal = 1 - noise
        shape = (-1, 1, 1, 1)
        return (
            signal.float().view(shape).to(self._device),
            noise.float().view(shape).to(self._device),
        )

    def noisy(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Noisy:
        """Add noise to latents.

        Args:
            clean: latents, (B, C, H, W), float32.
            noise: normal noise of that shape.
            levels: in [0, 1), (B,): 0 is the least noisy timestep, and they are equally likely in
                training.
        """
        clean, noise = clean.to(self._device), noise.to(self._device)
        timesteps = (levels * self.timestep_count).long()
        if not self._diffusion:  # at flow time 0 there is no noise to predict
            timesteps = timesteps.float() + 1
        signal, share = self.shares(timesteps)
        latents = signal * clean + share * noise
        if self._kind == "epsilon":
            wanted = noise
        elif self._kind == "v_prediction":
            wanted = signal * noise - share * clean
        elif self._kind == "sample":
            wanted = clean
        else:
            wanted = noise - clean
        return Noisy(latents.to(self._dtype), timesteps.to(self._device), wanted)

    def moved(self, latents: Tensor, prediction: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """Move latents along the model's deterministic path from one timestep to another.

        In the direction of sampling this is a step of DDIM, or an Euler step of a flow.

        Args:
            latents: (B, C, H, W), float32.
            prediction: of the model, at ``latents`` or near.
            here, there: timesteps, (B,); below 0 is the end of sampling.
        """
        signal, share = self.shares(here)
        if self._kind == "epsilon":
            noise = prediction
            clean = (latents - share * noise) / signal
        elif self._kind == "v_prediction":
            clean = signal * latents - share * prediction
            noise = signal * prediction + share * latents
        elif self._kind == "sample":
            clean = prediction
            noise = (latents - signal * clean) / share
        else:
            clean = latents - share * prediction
            noise = latents + signal * prediction
        signal, share = self.shares(there)
        return signal * clean + share * noise
