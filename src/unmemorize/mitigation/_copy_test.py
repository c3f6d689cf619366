"""Whether an image is a copy of what one prompt has memorized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unmemorize._prompts import Prompt
from unmemorize.detection import conformal_quantile
from unmemorize.metrics import (
    SMALLEST_LAYOUT,
    Descriptor,
    copy_scores,
    distinct_images,
    layout_mask,
    masked_copy_scores,
    to_rgb,
)

Measure = Literal["image", "layout", "agreement"]
FALSE_COPIES = 0.001
"""The share of images of other captions that may pass for a copy."""
SMALL = 128
"""The longest side of small copies in pixels, at which layouts are compared."""


@dataclass(frozen=True)
class CopyTest:
    """Compares images with what a prompt has memorized. A copy has a score above the level.

    Args:
        measure: "image" (descriptor similarity to the training images), "layout" (correlation with
            a training image over the pixels in which several images agree), or "agreement"
            (descriptor similarity to the most typical image of the unedited model).
        level: the score above which an image counts as a copy.
        references: unit vectors to compare with, (M, D); None for a layout.
        layouts: training images, for a layout.
        mask: the pixels of the layout, (H, W).
    """

    measure: Measure
    level: float
    references: Tensor | None = field(default=None, compare=False)
    layouts: tuple[Image.Image, ...] = field(default=(), compare=False)
    mask: NDArray[np.bool_] | None = field(default=None, compare=False)

    def scores(self, images: Sequence[Image.Image], descriptor: Descriptor) -> list[float]:
        """Score each image, in [-1, 1]."""
        if self.references is not None:
            scores: list[float] = copy_scores(descriptor(images), self.references).tolist()
            return scores
        return _layout_scores(images, self.layouts, self.mask)

    def copies_among(self, null: Null) -> tuple[int, ...]:
        """Return which images of ordinary captions score above the level, by their place."""
        if self.references is not None:
            scores = copy_scores(null.embeddings, self.references).tolist()
        else:
            scores = _layout_scores(null.images, self.layouts, self.mask)
        return tuple(place for place, score in enumerate(scores) if score > self.level)


@dataclass(frozen=True)
class Null:
    """Unedited images of ordinary captions, which are no copies.

    Args:
        embeddings: copy descriptors of images, one for each caption and seed, (N, D).
        others: those of the same captions from other noise, (N, D); None where every prompt has a
            training image.
        images: the images themselves, which may be smaller than generated ones.
        rate: the share of them that may pass for a copy.
    """

    embeddings: Tensor
    others: Tensor | None
    images: Sequence[Image.Image]
    rate: float = FALSE_COPIES


def copy_tests(
    prompt: Prompt,
    training: Sequence[Image.Image],
    unedited: Sequence[Image.Image],
    null: Null,
    descriptor: Descriptor,
) -> Iterator[CopyTest]:
    """Yield the tests that may show copies of a prompt, in the order in which they are tried.

    With training images these are the whole image, then the layout; without, the agreement of
    seeds. The level of each bounds the share of false copies by split-conformal calibration. For
    agreement the null is how much two images of one ordinary caption resemble each other, since a
    caption alone makes images alike. There the bound is rough: the most typical image, with which
    others are compared, is chosen for being like them, so up to four times as many pass.

    Args:
        prompt: the prompt.
        training: its training images.
        unedited: images of the unedited model.
        null: images of ordinary captions.
        descriptor: compares images.

    Raises:
        ThresholdError: there are too few ordinary images for the rate.
    """
    if training:
        references = descriptor(training)
        level = conformal_quantile(copy_scores(null.embeddings, references).tolist(), null.rate)
        yield CopyTest("image", level, references)
        layout = _layout(prompt, training, unedited)
        if layout is not None:
            layouts, mask = layout
            scores = _layout_scores(null.images, layouts, mask)
            yield CopyTest(
                "layout", conformal_quantile(scores, null.rate), layouts=layouts, mask=mask
            )
    elif null.others is not None:
        agreement = (null.embeddings * null.others).sum(1)
        level = conformal_quantile(agreement.tolist(), null.rate)
        embeddings = descriptor(unedited)
        yield CopyTest("agreement", level, embeddings[[medoid(embeddings)]])


def medoid(embeddings: Tensor) -> int:
    """Return which unit vector is most similar to the others: the highest median cosine."""
    return int((embeddings @ embeddings.T).median(1).values.argmax())


def _layout(
    prompt: Prompt, training: Sequence[Image.Image], unedited: Sequence[Image.Image]
) -> tuple[tuple[Image.Image, ...], NDArray[np.bool_]] | None:
    """Return training images and the pixels of their layout, or None where there is none."""
    if prompt.kind == "VM":
        return None
    small = [small_copy(image) for image in distinct_images(training)]
    alike = small if len(small) > 1 else [small_copy(image) for image in unedited]
    if len(alike) < 2:
        return None
    mask = layout_mask(alike)
    return (tuple(small), mask) if mask.mean() >= SMALLEST_LAYOUT else None


def _layout_scores(
    images: Sequence[Image.Image],
    layouts: Sequence[Image.Image],
    mask: NDArray[np.bool_] | None,
) -> list[float]:
    assert mask is not None
    scores = masked_copy_scores([small_copy(image) for image in images], layouts, mask)
    assert scores is not None  # the mask is large enough
    return list(scores)


def small_copy(image: Image.Image) -> Image.Image:
    """Return an RGB copy of an image, at most `SMALL` pixels wide and high."""
    small = to_rgb(image).copy()
    small.thumbnail((SMALL, SMALL), Image.Resampling.BICUBIC)
    return small
