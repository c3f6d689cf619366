"""Training images as the denoiser sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from unmemorize._errors import MitigationError
from unmemorize.metrics import read_image
from unmemorize.pipelines import Model, sampler


@torch.no_grad()
def encoded_images(model: Model, paths: Sequence[Path], method: str) -> Tensor:
    """Encode image files as clean latents of the model's own size, (images, C, H, W).

    Images of another size are squashed. The mean of the encoder's distribution is taken.

    Raises:
        MitigationError: the pipeline has no encoder of the usual kind.
        MetricError: a file cannot be read.
    """
    vae = getattr(model.pipe, "vae", None)
    if vae is None or not hasattr(vae.config, "scaling_factor") or not hasattr(vae, "quant_conv"):
        raise MitigationError(
            f"{method}: {type(model.pipe).__name__} has no AutoencoderKL, so training images "
            "cannot be encoded. Use closed-form or wanda."
        )
    side = model.latent_shape[-1] * model.pipe.vae_scale_factor
    pixels = [
        np.asarray(read_image(path).resize((side, side), Image.Resampling.BICUBIC))
        for path in paths
    ]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 127.5 - 1
    latents = vae.encode(images.to(model.device, vae.dtype)).latent_dist.mean
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    clean: Tensor = (latents - shift).to(model.dtype) * vae.config.scaling_factor
    return clean


def noised(model: Model, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Add noise to clean latents (B, C, H, W) as at one timestep of the model's schedule."""
    scheduler = sampler(model.pipe)
    if isinstance(scheduler, DDIMScheduler):
        times = timestep.to(clean.device).long().expand(len(clean))
        noisy: Tensor = scheduler.add_noise(clean, noise, times)
        return noisy
    level = float(timestep) / float(scheduler.config.num_train_timesteps)
    return (1 - level) * clean + level * noise
