"""Whether an image is a copy: a score, and the level that few ordinary images exceed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image
from torch import Tensor

from unmemorize._errors import MitigationError
from unmemorize.detection import conformal_quantile
from unmemorize.metrics import (
    Descriptor,
    copy_scores,
    layout_mask,
    masked_copy_scores,
)

MeasureName = Literal["whole image", "masked layout", "agreement of seeds"]
FALSE_COPIES = 0.001
"""The largest share of ordinary images that may count as copies. At one percent, a perfect edit
would fail most certificates."""


@dataclass(frozen=True)
class CopyLevel:
    """A score above which an image counts as a copy.

    Args:
        level: the score.
        rate: the probability, at most, with which an ordinary image exceeds it.
        images: how many ordinary images it rests on.
    """

    level: float
    rate: float
    images: int


def copy_level(scores: Sequence[float], rate: float | None = FALSE_COPIES) -> CopyLevel:
    """Calibrate the level of a copy on ordinary images (split conformal).

    Args:
        scores: one score for each image of other, ordinary captions.
        rate: the largest share of ordinary images above the level. None takes .001, or the
            smallest rate that so few images allow.

    Raises:
        ThresholdError: there are too few images for the rate.
        MitigationError: there is no image.

    Examples:
        >>> copy_level([0.1, 0.4, 0.2], rate=None)
        CopyLevel(level=0.4, rate=0.25, images=3)
    """
    if not len(scores):
        raise MitigationError("no ordinary image, so no level of a copy. Generate at least one.")
    smallest = 1 / (len(scores) + 1)
    if rate is None and smallest > FALSE_COPIES:
        return CopyLevel(float(max(scores)), smallest, len(scores))
    chosen = FALSE_COPIES if rate is None else rate
    return CopyLevel(float(conformal_quantile(scores, chosen)), chosen, len(scores))


@dataclass(frozen=True, eq=False)
class CopyMeasure:
    """One way to tell the copies of one prompt.

    Args:
        name: what is compared.
        score: images -> a score for each; higher is more of a copy.
        level: the score above which an image is a copy.
    """

    name: MeasureName
    score: Callable[[Sequence[Image.Image]], Sequence[float]]
    level: CopyLevel

    def copies(self, images: Sequence[Image.Image]) -> tuple[bool, ...]:
        """Tell for each image whether it is a copy."""
        return tuple(score > self.level.level for score in self.score(images))


def medoid(embeddings: Tensor) -> int:
    """Return which image is most similar to the others on average.

    Args:
        embeddings: unit vectors, (images, D), at least one.

    Examples:
        >>> import torch
        >>> medoid(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))
        1
    """
    return int((embeddings @ embeddings.T).sum(1).argmax())


def whole_image(
    references: Sequence[Image.Image],
    ordinary: Sequence[Image.Image],
    descriptor: Descriptor,
    *,
    rate: float | None = FALSE_COPIES,
    name: MeasureName = "whole image",
) -> CopyMeasure:
    """Compare images with references by the copy descriptor.

    Args:
        references: training images, or what stands for them.
        ordinary: images of other, ordinary captions, each of which is compared once.
        descriptor: compares images.
        rate: see `copy_level`.
        name: what the references are.
    """
    targets = descriptor(references)

    def score(images: Sequence[Image.Image]) -> Sequence[float]:
        scores: list[float] = copy_scores(descriptor(images), targets).tolist()
        return scores

    return CopyMeasure(name, score, copy_level(score(ordinary), rate))


def masked_layout(
    references: Sequence[Image.Image],
    alike: Sequence[Image.Image],
    ordinary: Sequence[Image.Image],
    *,
    rate: float | None = FALSE_COPIES,
) -> CopyMeasure | None:
    """Compare the layout of images with that of references, for template memorization.

    Args:
        references: training images.
        alike: at least two images that have the layout in common.
        ordinary: images of other, ordinary captions, each of which is compared once.
        rate: see `copy_level`.

    Returns:
        The measure, or None if the images have no layout in common.
    """
    mask = layout_mask(alike)
    if masked_copy_scores(references[:1], references, mask) is None:
        return None

    def score(images: Sequence[Image.Image]) -> Sequence[float]:
        scores = masked_copy_scores(images, references, mask)
        assert scores is not None  # as the mask is large enough
        return scores

    return CopyMeasure("masked layout", score, copy_level(score(ordinary), rate))
