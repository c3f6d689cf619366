"""A copy score for template memorization: where only the layout of an image is memorized, compare nothing but the layout.

A whole-image score is low for such copies whether they are mitigated or not (.04 in the paper), since what varies drowns what is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unmemorize._errors import MetricError
from unmemorize.metrics._copies import correlation

AGREEMENT = 0.1
"""Standard deviation over images, in [0, 1], below which a pixel counts as fixed."""
SMALLEST_SHARE = 0.05
"""Share of fixed pixels below which there is no layout to speak of."""

Array: TypeAlias = NDArray[np.float64]


def layout_mask(images: Sequence[Image.Image]) -> NDArray[np.bool_]:
    """The pixels in which images agree, shape (H, W) of the first image.

    Args:
        images: at least two images of the same template.

    Raises:
        MetricError: fewer than two images.
    """
    if len(images) < 2:
        raise MetricError(
            f"{len(images)} image(s): what they have in common shows with at least 2. Name more training images."
        )
    stack = np.stack([_array(image, images[0].size) for image in images])  # (N, H, W, 3)
    fixed: NDArray[np.bool_] = (stack.std(0) < AGREEMENT).all(-1)
    return fixed


def masked_copy_scores(
    generated: Sequence[Image.Image], references: Sequence[Image.Image], mask: NDArray[np.bool_]
) -> list[float] | None:
    """Copy scores over the layout: for each generated image its highest Pearson correlation to a reference over the pixels of the mask.

    Args:
        generated: images of any size, resized to that of the mask.
        references: training images.
        mask: the pixels that count, (H, W), see `layout_mask`.

    Returns:
        One number in [-1, 1] per generated image; 0 where an image is constant over the mask. None when the mask has too few pixels.

    Raises:
        MetricError: there is no reference.
    """
    if not references:
        raise MetricError(
            "no training image to compare with. Name at least one in the column images of the prompt file."
        )
    if mask.mean() < SMALLEST_SHARE:
        return None
    size = (mask.shape[1], mask.shape[0])
    drawn, targets = (
        [_array(image, size)[mask].ravel() for image in images]
        for images in (generated, references)
    )
    return [max(correlation(pixels, target) for target in targets) for pixels in drawn]


def _array(image: Image.Image, size: tuple[int, int]) -> Array:
    resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float64) / 255.0
