"""Images as the clean latents that a denoiser works on."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from unmemorize.pipelines._model import Model


@torch.no_grad()
def encoded(model: Model, pixels: Tensor) -> Tensor:
    """Encode images by the autoencoder of a pipeline that has one.

    Args:
        model: the model.
        pixels: (B, 3, H, W) in [-1, 1].

    Returns:
        The modes of their latent distributions, shifted and scaled for the denoiser, float32 or
        float64 of shape (B, C, H, W).
    """
    vae: Any = model.pipe.vae
    config = vae.config
    if getattr(config, "force_upcast", False) and vae.dtype == torch.float16:
        vae = copy.deepcopy(vae).float()  # in half precision this one returns NaN
    output: Any = vae.encode(pixels.to(model.device, vae.dtype))
    distribution = getattr(output, "latent_dist", None)
    latents: Tensor = output.latent if distribution is None else distribution.mode()
    latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
    shift = getattr(config, "shift_factor", None) or 0.0
    scaled: Tensor = (latents - shift) * config.scaling_factor
    return scaled
