"""Images as the clean latents that a denoiser works on, and the memory that decoding them takes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from unmemorize.pipelines._model import Model

DECODED_TOGETHER = 6 * 1024**3
"""Bytes that a decoder may take for a batch of images: small beside a full-size model."""
_MAPS = 4
"""How many feature maps of its last block a decoder holds at a time, for each image. Measured:
10 images of 512 pixels took 5 GiB in float16 (docs/real-shapes.md)."""


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
    if _is_upcast(vae):
        vae = copy.deepcopy(vae).float()
    output: Any = vae.encode(pixels.to(model.device, vae.dtype))
    distribution = getattr(output, "latent_dist", None)
    latents: Tensor = output.latent if distribution is None else distribution.mode()
    latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
    shift = getattr(config, "shift_factor", None) or 0.0
    scaled: Tensor = (latents - shift) * config.scaling_factor
    return scaled


@contextmanager
def decoding(model: Model, images: int) -> Iterator[None]:
    """Decode the images of a batch one by one while the context lasts, if they need much memory.

    What is decided depends on the model's shape and type alone, so it is the same on every device.

    Args:
        model: the model.
        images: how many images the batch has.
    """
    vae: Any = getattr(model.pipe, "vae", None)
    sliced = getattr(vae, "use_slicing", None)
    if sliced is not False or images * decoder_bytes(model) <= DECODED_TOGETHER:
        yield
        return
    vae.enable_slicing()
    try:
        yield
    finally:
        vae.disable_slicing()


@contextmanager
def keeping_type(pipe: Any) -> Iterator[None]:
    """Put back the type of an autoencoder that a pipeline changes to decode."""
    vae: Any = getattr(pipe, "vae", None)
    before = getattr(vae, "dtype", None)
    try:
        yield
    finally:
        if before != getattr(vae, "dtype", None):
            vae.to(before)


def decoder_bytes(model: Model) -> int:
    """Estimate what a decoder takes for one image; 0 for one of unknown shape."""
    vae: Any = model.pipe.vae
    widths: tuple[int, ...] = tuple(getattr(vae.config, "block_out_channels", ()))
    if not widths:
        return 0
    _, height, width = model.latent_shape
    side = 2 ** (len(widths) - 1)
    pixels: int = height * width * side * side
    number: int = 4 if _is_upcast(vae) else vae.dtype.itemsize
    return _MAPS * widths[:2][-1] * pixels * number


def _is_upcast(vae: Any) -> bool:
    """Whether an autoencoder in half precision returns NaN, so that it works in float32."""
    return bool(getattr(vae.config, "force_upcast", False)) and vae.dtype == torch.float16
