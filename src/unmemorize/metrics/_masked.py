"""A copy score for template memorization, which compares nothing but the layout.

A whole-image score is low for copies of a layout, mitigated or not (.04 in the paper), since the
parts that vary outweigh the parts that are copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unmemorize._errors import MetricError
from unmemorize.metrics._metric import Instrument, Instruments, PromptImages
from unmemorize.metrics._pixel_correlation import centred_pixels, cosine
from unmemorize.metrics._read_image import to_rgb

AGREEMENT = 0.1
"""Standard deviation over images, in [0, 1], below which a pixel belongs to the layout."""
SMALLEST_SHARE = 0.05
"""Share of such pixels below which there is no layout to speak of."""

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class MaskedCopy:
    """For each seed the highest correlation in [-1, 1] with a training image over the layout.

    The mean of each channel over the layout is removed first, so a common colour is no copy.
    The layout is what several training images have in common; if there is only one, or copies of
    one, what the original images have in common.
    """

    name = "masked-copy"
    label = "masked copy score"

    def __init__(self, _instruments: Instruments) -> None:
        self.measured_by = Instrument(
            "correlation over the pixels in which the training images agree, the mean of each "
            "channel removed"
        )

    def __call__(self, images: PromptImages) -> tuple[float, ...] | None:
        """See `Metric`. There are values for TM prompts with a training image and a layout."""
        if images.prompt.kind != "TM" or not images.training:
            return None
        training = distinct_images(images.training)
        alike = training if len(training) > 1 else images.originals
        if len(alike) < 2:
            return None
        return masked_copy_scores(images.generated, training, layout_mask(alike))


def distinct_images(images: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
    """Return training images without copies of earlier ones.

    A prompt file may list an image twice, and the layout of the two would be the whole image.
    """
    by_content: dict[tuple[tuple[int, int], bytes], Image.Image] = {}
    for image in images:
        rgb = to_rgb(image)
        by_content.setdefault((rgb.size, rgb.tobytes()), image)
    return tuple(by_content.values())


def layout_mask(images: Sequence[Image.Image]) -> Mask:
    """Return the pixels in which images agree in all channels.

    Args:
        images: at least two images of the same template, none of them twice (see
            `distinct_images`). They are resized to the size of the first.

    Returns:
        True where they agree, (H, W) of the first image.

    Raises:
        MetricError: there are fewer than two images.
    """
    if len(images) < 2:
        raise MetricError(
            f"{len(images)} image(s): a layout shows only in at least 2. Name more training images."
        )
    size = to_rgb(images[0]).size
    stack = np.stack([_array(image, size) for image in images])  # (N, H, W, 3)
    agree: Mask = (stack.std(0) < AGREEMENT).all(-1)
    return agree


def masked_copy_scores(
    generated: Sequence[Image.Image], references: Sequence[Image.Image], mask: Mask
) -> tuple[float, ...] | None:
    """Return for each generated image its highest correlation with a reference over a mask.

    Args:
        generated: images of any size. They are resized to the size of the mask.
        references: training images.
        mask: the pixels that count, (H, W), see `layout_mask`.

    Returns:
        A correlation in [-1, 1] for each generated image, each channel relative to its mean over
        the mask. 0 if all channels are constant there. None if the mask has too few pixels.

    Raises:
        MetricError: there is no reference.
    """
    if not references:
        raise MetricError(
            "no training image to compare with. "
            "Name at least one in the column images of the prompt file."
        )
    if mask.mean() < SMALLEST_SHARE:
        return None
    targets = [centred_pixels(reference, mask) for reference in references]
    layouts = (centred_pixels(image, mask) for image in generated)
    return tuple(max(cosine(layout, target) for target in targets) for layout in layouts)


def _array(image: Image.Image, size: tuple[int, int]) -> Array:
    """Return an image of this size (width, height) as (H, W, 3) in [0, 1]."""
    resized = to_rgb(image).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float64) / 255.0
