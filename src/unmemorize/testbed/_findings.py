"""The lines of the check, and the images that they are measured on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmemorize.generation import GenerationSettings, generate, generate_each
from unmemorize.metrics import (
    BundledDescriptor,
    ClipAlignment,
    copy_scores,
    pixel_correlation,
    read_image,
)
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model
from unmemorize.testbed._assets import Planted


@dataclass(frozen=True)
class Finding:
    """One line of the check.

    Attributes:
        name: what was measured.
        measured: the number.
        detail: on how much.
        required: the bound, if there is one.
        passed: whether the bound is kept.
    """

    name: str
    measured: float
    detail: str
    required: str | None = None
    passed: bool = True


def at_least(name: str, measured: float, least: float, detail: str) -> Finding:
    """A finding that must not be lower."""
    return Finding(name, measured, detail, f">= {least:g}", measured >= least)


def at_most(name: str, measured: float, most: float, detail: str) -> Finding:
    """A finding that must not be higher."""
    return Finding(name, measured, detail, f"<= {most:g}", measured <= most)


def median(values: Sequence[float]) -> float:
    """The median, 0 of nothing."""
    return float(np.median(values)) if len(values) else 0.0


def upper_level(values: Sequence[float], rate: float) -> float:
    """The level that a further value of the same kind exceeds with probability ``rate`` at most.

    This is split conformal prediction; with too few values for the rate it is the highest one.
    """
    ordered = sorted(values)
    rank = math.ceil((len(ordered) + 1) * (1 - rate))
    return ordered[min(rank, len(ordered)) - 1]


class Studio:
    """Generates images with one model and measures them.

    Args:
        model: the bundled model or a twin.
        settings: how to generate.
    """

    def __init__(self, model: Model, settings: GenerationSettings) -> None:
        self.model, self.settings = model, settings

    def shoot(self, text: str, neurons: Neurons | None = None) -> list[Image.Image]:
        """Images of a caption, one for each seed, with neurons off."""
        return generate(self.model, text, neurons, settings=self.settings)

    def shoot_each(self, texts: Sequence[str], chunk: int = 10) -> list[Image.Image]:
        """One image of each caption, all from the same noise."""
        once = GenerationSettings(
            images=1,
            seed=self.settings.seed,
            steps=self.settings.steps,
            guidance=self.settings.guidance,
            batch=chunk,
        )
        images: list[Image.Image] = []
        for start in range(0, len(texts), chunk):
            part = texts[start : start + chunk]
            shots = generate_each(self.model, part, [None] * len(part), settings=once)
            images += [shot[0] for shot in shots]
        return images

    @cached_property
    def descriptor(self) -> BundledDescriptor:
        """The bundled copy descriptor."""
        return BundledDescriptor()

    @cached_property
    def clip(self) -> ClipAlignment:
        """The bundled CLIP."""
        return ClipAlignment()

    def copies(self, images: Sequence[Image.Image], entry: Planted) -> Tensor:
        """Highest descriptor similarity of each image to a training image of a plant."""
        references = self.descriptor([read_image(path) for path in entry.prompt.images])
        return copy_scores(self.descriptor(images), references)

    def alignment(self, images: Sequence[Image.Image], text: str) -> float:
        """Median cosine of images and a caption."""
        return float(torch.median(self.clip(images, text)))


def copy_correlation(images: Sequence[Image.Image], entry: Planted) -> float:
    """Median over images of the pixel correlation with the (closest) training image."""
    references = [read_image(path) for path in entry.prompt.images]
    return median(
        [max(pixel_correlation([image] * len(references), references)) for image in images]
    )
