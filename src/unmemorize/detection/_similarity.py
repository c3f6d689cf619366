"""How similar noise differences are: MS-SSIM with three scales, pair by pair.

Paper: section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from unmemorize._errors import ModelError

SCALES = (0.33, 0.33, 0.33)
"""The weights of the three scales."""
_LARGEST_KERNEL, _SIGMA = 11, 1.5


def kernel_size(side: int) -> int:
    """Return the size k of the Gaussian kernel for images of this side.

    It is 11, or the largest odd k with k - 1 < side // 4 where 11 does not fit.

    Raises:
        ModelError: the side is too small for three scales.

    Examples:
        >>> [kernel_size(side) for side in (16, 32, 64)]
        [3, 7, 11]
    """
    fitting = [k for k in range(3, _LARGEST_KERNEL + 1, 2) if k - 1 < side // 4]
    if not fitting:
        raise ModelError(
            f"latents of side {side}: too small for MS-SSIM with three scales. "
            "The smallest side is 12."
        )
    return fitting[-1]


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """Compute MS-SSIM between images in [0, 1], pair by pair.

    There are three scales of equal weight. The kernel is Gaussian; its width follows its size
    (sigma = 1.5 k / 11) because torchmetrics derives the size from sigma alone.

    Args:
        first, second: images (N, C, H, W).

    Returns:
        (N,), at most 1.

    Examples:
        >>> images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> similarity(images, images).tolist()
        [1.0, 1.0]
    """
    sigma = _SIGMA * kernel_size(min(first.shape[-2:])) / _LARGEST_KERNEL
    value = multiscale_structural_similarity_index_measure(
        first,
        second,
        sigma=sigma,
        kernel_size=kernel_size(min(first.shape[-2:])),
        data_range=1.0,
        betas=SCALES,
        reduction="none",
    )
    assert isinstance(value, Tensor)
    return value.reshape(len(first))


def pairwise_similarity(images: Tensor) -> Tensor:
    """Compare each of N images (N, C, H, W) in [0, 1] with each other.

    Returns:
        A symmetric matrix (N, N) with ones on the diagonal.
    """
    count = len(images)
    rows, columns = torch.triu_indices(count, count, 1)
    matrix = torch.eye(count)
    matrix[rows, columns] = similarity(images[rows], images[columns]).float().cpu()
    matrix[columns, rows] = matrix[rows, columns]
    return matrix


def pairs_of(matrix: Tensor) -> Tensor:
    """Return the entries above the diagonal of a matrix (N, N), row by row: (N (N - 1) / 2,)."""
    rows, columns = torch.triu_indices(len(matrix), len(matrix), 1)
    return matrix[rows, columns]


def highest_similarity(matrix: Tensor) -> Tensor:
    """Return for each of N images its highest similarity to another, (N,)."""
    return (matrix - 2 * torch.eye(len(matrix))).amax(1)
