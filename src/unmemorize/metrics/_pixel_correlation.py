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
    width, height = to_rgb(first).size
    everywhere = np.ones((height, width), dtype=bool)
    pixels = centred_pixels(first, everywhere)
    for other in others:
        yield cosine(pixels, centred_pixels(other, everywhere))


def centred_pixels(image: Image.Image, mask: NDArray[np.bool_]) -> Array:
    """Return the pixels of an image under a mask, each channel relative to its mean there.

    Args:
        image: of any size. It is resized to the size of the mask.
        mask: the pixels that count, (H, W). There must be some.

    Returns:
        A vector. All of it is 0 if each channel is constant under the mask.
    """
    height, width = mask.shape
    resized = to_rgb(image).resize((width, height), Image.Resampling.BICUBIC)
    # whole numbers, so that the mean of a constant channel is exact
    pixels = np.asarray(resized, dtype=np.float64)[mask]  # (pixels, 3)
    centred: Array = (pixels - pixels.mean(0)).ravel()
    return centred


def cosine(first: Array, second: Array) -> float:
    """Return the cosine of two vectors, in [-1, 1]; 0 if one of them is 0."""
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm else 0.0
