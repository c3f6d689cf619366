"""Copies and diversity: how close generated images are to others (SSCD_Gen, SSCD_Orig) and to each other (D_SSCD)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unmemorize._errors import MetricError


def seedwise_similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSCD_Gen: cosines between embeddings (N, D) of the same seeds, shape (N,).

    Raises:
        MetricError: the two have different shapes.
    """
    if first.shape != second.shape:
        raise MetricError(
            f"{len(first)} and {len(second)} images cannot be compared seed by seed. Generate both with the same settings."
        )
    return (first * second).sum(1)


def copy_scores(generated: Tensor, references: Tensor) -> Tensor:
    """SSCD_Orig: for each generated image the highest cosine to a training image; embeddings (N, D) and (M, D), shape (N,).

    Raises:
        MetricError: there is no reference.
    """
    if not len(references):
        raise MetricError(
            "no training image to compare with. Name at least one in the column images of the prompt file."
        )
    return (generated @ references.T).amax(1)


def diversity(embeddings: Tensor) -> float:
    """D_SSCD: the median cosine between the images of one prompt, embeddings (N, D); lower is more diverse.

    Raises:
        MetricError: fewer than two images.
    """
    if len(embeddings) < 2:
        raise MetricError(
            f"{len(embeddings)} image(s): diversity needs at least 2. Generate more images per prompt."
        )
    rows, columns = torch.triu_indices(len(embeddings), len(embeddings), 1)
    return float(np.median((embeddings[rows] * embeddings[columns]).sum(1).numpy()))


def pixel_correlation(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> list[float]:
    """Pearson correlation over pixels and channels, image by image, in [-1, 1]; 0 where an image is constant.

    The second images are resized to the size of the first.
    """
    found = []
    for one, other in zip(first, second, strict=True):
        a = np.asarray(one.convert("RGB"), dtype=np.float64).ravel()
        b = np.asarray(
            other.convert("RGB").resize(one.size, Image.Resampling.BICUBIC), dtype=np.float64
        ).ravel()
        found.append(correlation(a, b))
    return found


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Pearson correlation of two vectors, in [-1, 1]; 0 where one is constant."""
    a, b = first - first.mean(), second - second.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0
