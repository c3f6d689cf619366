"""Images inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_PALE = 0.8
"""How far pixels that are not kept go towards white."""


@dataclass(frozen=True)
class Pictures:
    """How images are put into the page.

    Args:
        side: of the square an image fits in, in pixels.
        quality: of the WEBP file, in percent.
        most: images of a set.
    """

    side: int
    quality: int
    most: int

    def url(self, image: Image.Image) -> str:
        """Return an image as a data URL."""
        return data_url(image, self.side, self.quality)


def with_pixels(image: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """Return an RGB image of which the pixels of a mask are kept, and the others are pale and grey.

    Args:
        image: the image.
        mask: which pixels to keep, at any resolution.
    """
    pale = Image.blend(image.convert("L"), Image.new("L", image.size, 255), _PALE)
    kept = Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST)
    return Image.composite(image.convert("RGB"), pale.convert("RGB"), kept)


def data_urls(images: Iterable[Image.Image], pictures: Pictures) -> tuple[str, ...]:
    """Return images as data URLs."""
    return tuple(map(pictures.url, images))


def data_url(image: Image.Image, side: int, quality: int) -> str:
    """Return an image as a data URL, no larger than a square.

    Args:
        image: the image.
        side: of the square, in pixels.
        quality: of the WEBP file, in percent.
    """
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
