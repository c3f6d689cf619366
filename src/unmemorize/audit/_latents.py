"""Images as latents."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmemorize._errors import AuditError
from unmemorize.metrics import to_rgb
from unmemorize.pipelines import Model, encoded


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
