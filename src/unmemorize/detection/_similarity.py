"""How similar noise differences are: MS-SSIM with three scales, pair by pair.

Paper: section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from unmemorize.detection._ms_ssim import ms_ssim

SimilarityName = Literal["fixed", "published"]


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """Compute MS-SSIM between images in [0, 1], pair by pair.

    The range of values is 1 at each scale, so the value of a pair does not depend on the others.

    Args:
        first, second: images (N, C, H, W).

    Returns:
        (N,), at most 1.

    Examples:
        >>> images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> similarity(images, images).tolist()
        [1.0, 1.0]
    """
    return ms_ssim(first, second, data_range=1.0)


def published_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Compute MS-SSIM pair by pair as the published code does.

    The published code gives no range of values, so the range is taken at each scale from all images
    of the call, and the value of a pair depends on the other pairs. Published thresholds such as
    0.428 belong to this definition, with all pairs of a prompt's seeds in one call, or all of its
    memorized seeds against themselves.

    Args:
        first, second: images (N, C, H, W).

    Returns:
        (N,), at most 1.

    Examples:
        >>> images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> published_similarity(images, images).tolist()
        [1.0, 1.0]
    """
    return ms_ssim(first, second, data_range=None)


SIMILARITIES: Mapping[SimilarityName, Callable[[Tensor, Tensor], Tensor]] = {
    "fixed": similarity,
    "published": published_similarity,
}
"""Both definitions by the name that settings, thresholds and records give them."""


def pairwise_similarity(images: Tensor, definition: SimilarityName = "fixed") -> Tensor:
    """Compare each of N images (N, C, H, W) in [0, 1] with each other, all pairs in one call.

    Args:
        images: the images.
        definition: which similarity.

    Returns:
        A symmetric matrix (N, N) with ones on the diagonal.
    """
    rows, columns = torch.triu_indices(len(images), len(images), 1)
    values = SIMILARITIES[definition](images[rows], images[columns])
    return matrix_of(values.float().cpu(), len(images))


def pairs_of(matrix: Tensor) -> Tensor:
    """Return the entries above the diagonal of a matrix (N, N), row by row: (N (N - 1) / 2,)."""
    rows, columns = torch.triu_indices(len(matrix), len(matrix), 1)
    return matrix[rows, columns]


def matrix_of(pairs: Tensor, count: int) -> Tensor:
    """Make symmetric matrices (..., N, N) of pairs (..., N (N - 1) / 2), as `pairs_of` undoes it.

    The diagonals hold ones, the similarity of an image to itself.
    """
    rows, columns = torch.triu_indices(count, count, 1)
    matrix = torch.eye(count, dtype=pairs.dtype).repeat(*pairs.shape[:-1], 1, 1)
    matrix[..., rows, columns] = pairs
    matrix[..., columns, rows] = pairs
    return matrix
