"""How much of a training image an image shows again: the share of its pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from unmemorize.metrics._read_image import to_rgb

_SIDE, _WINDOW = 128, 11
"""The longest side at which images are compared, and that of the window, in pixels."""
_SAME = 0.5
"""Structural similarity around a pixel above which the image shows the same there."""


def reproduced_mask(image: Image.Image, training: Image.Image) -> NDArray[np.bool_]:
    """Tell which pixels of a training image an image shows again, at the same place.

    Both are scaled down to at most 128 pixels, in the shape of the training image. A pixel is shown
    again if the structural similarity in a window of 11 pixels around it, the mean over channels,
    is above .5 (ours).

    Args:
        image: an image.
        training: the training image.

    Returns:
        True where it is shown again, (H, W), at most 128 x 128.

    Source: Wang et al., IEEE Transactions on Image Processing 2004 (SSIM).

    Examples:
        >>> image = Image.effect_noise((64, 64), 50)
        >>> float(reproduced_mask(image, image).mean())
        1.0
    """
    return _mask(image, _small(training))


def reproduced_shares(
    images: Sequence[Image.Image], training: Sequence[Image.Image]
) -> tuple[float, ...]:
    """Return the largest share of a training image that each image shows again, in [0, 1].

    Args:
        images: the images.
        training: training images, at least one.
    """
    originals = list(map(_small, training))
    return tuple(
        max(float(_mask(image, original).mean()) for original in originals) for image in images
    )


def _small(training: Image.Image) -> Image.Image:
    """Scale an image down to at most `_SIDE` pixels, and up to those of a window."""
    original = to_rgb(training)
    scale = min(1.0, _SIDE / max(original.size))
    width, height = (max(_WINDOW, round(scale * side)) for side in original.size)
    return original.resize((width, height), Image.Resampling.BICUBIC)


def _mask(image: Image.Image, original: Image.Image) -> NDArray[np.bool_]:
    resized = to_rgb(image).resize(original.size, Image.Resampling.BICUBIC)
    _, similarity = structural_similarity_index_measure(
        _tensor(resized),
        _tensor(original),
        kernel_size=_WINDOW,
        data_range=1.0,
        return_full_image=True,
    )
    mask: NDArray[np.bool_] = (similarity[0].mean(0) > _SAME).numpy()
    return mask


def _tensor(image: Image.Image) -> Tensor:
    """Return an image as (1, 3, H, W) in [0, 1]."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    return pixels.permute(2, 0, 1)[None]
