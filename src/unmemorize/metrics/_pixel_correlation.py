"""Pixel correlation with the closest training image: a copy score that needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unmemorize.metrics._metric import Instrument, Instruments, PromptImages
from unmemorize.metrics._read_image import to_rgb

Array = NDArray[np.float64]


class PixelCorrelation:
    """For each seed the highest centred correlation in [-1, 1] with a training image.

    The mean of each channel is removed first. Without that, images of one background colour
    correlate at .5 and more, whatever they show.
    """

    name = "pixel-correlation"
    label = "pixel correlation"

    def __init__(self, _instruments: Instruments) -> None:
        self.measured_by = Instrument("correlation of pixels, the mean of each channel removed")

    def __call__(self, images: PromptImages) -> tuple[float, ...] | None:
        """See `Metric`. There is no value without a training image."""
        if not images.training:
            return None
        return tuple(max(_correlations(image, images.training)) for image in images.generated)


def centred_correlation(first: Image.Image, second: Image.Image) -> float:
    """Correlate the pixels of two images, each channel relative to its mean.

    Args:
        first: an image.
        second: another one, resized to the size of the first.

    Returns:
        A number in [-1, 1]; 0 if all channels of an image are constant.

    Examples:
        >>> image = Image.effect_noise((8, 8), 50)
        >>> round(centred_correlation(image, image.point(lambda value: 200 - value / 2)), 2)
        -1.0
    """
    return next(_correlations(first, [second]))


def _correlations(first: Image.Image, others: Iterable[Image.Image]) -> Iterator[float]:
    size = to_rgb(first).size
    a = _centred(first, size)
    for other in others:
        b = _centred(other, size)
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        yield float((a * b).sum()) / norm if norm else 0.0


def _centred(image: Image.Image, size: tuple[int, int]) -> Array:
    resized = to_rgb(image).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(resized, dtype=np.float64)  # (H, W, 3)
    centred: Array = pixels - pixels.mean((0, 1))
    return centred
