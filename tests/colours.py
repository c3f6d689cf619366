"""Instruments that anyone can compute by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unmemorize import Prompt
from unmemorize.metrics import PromptImages

Array = NDArray[np.float64]


class Colours:
    """A descriptor and feature extractor: the mean colour of an image."""

    name, digest = "inception-colours", "c" * 64
    kind: Literal["FID", "CLIP-FID"] = "FID"

    def __init__(self) -> None:
        self.calls = 0

    def features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.from_numpy(mean_colours(images)).float()

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        self.calls += 1
        return torch.nn.functional.normalize(self.features(images), dim=1)


class Pixels:
    """A descriptor: the pixels of an image, each channel relative to its mean."""

    name, digest = "pixels", "p" * 64

    def __call__(self, images: Any) -> torch.Tensor:
        rows = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images])
        rows = (rows - rows.mean((1, 2), keepdims=True)).reshape(len(images), -1)
        return torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)


def mean_colours(images: Sequence[Image.Image]) -> Array:
    """Mean colours, (N, 3), none of them black."""
    return np.stack([np.asarray(image.convert("RGB")).mean((0, 1)) + 1 for image in images])


def cosines(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> Array:
    """Cosines of mean colours, (N, M)."""
    a, b = (
        colours / np.linalg.norm(colours, axis=1, keepdims=True)
        for colours in map(mean_colours, (first, second))
    )
    return np.asarray(a @ b.T)


def noise(seed: int, size: tuple[int, int] = (8, 6)) -> Image.Image:
    """An image of random pixels with a colour of its own; the size is (width, height)."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 160, (size[1], size[0], 3)) + rng.integers(0, 90, 3)
    return Image.fromarray(pixels.astype(np.uint8))


def images_of(**given: Any) -> PromptImages:
    """Images of a prompt, by default three that were generated."""
    defaults: dict[str, Any] = {
        "prompt": Prompt("a prompt"),
        "generated": tuple(map(noise, (1, 2, 3))),
        "descriptor": Colours(),
    }
    return PromptImages(**(defaults | given))
