"""Multi-scale SSIM as the published code computes it, with or without a fixed range of values.

The published code calls a library whose later releases compute something else, so the definition is
written out here; docs/method.md states it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from unmemorize._errors import ModelError

SCALES = (0.33, 0.33, 0.33)
"""The weights of the three scales (paper, section 3.1)."""
_LARGEST_KERNEL, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


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


def ms_ssim(first: Tensor, second: Tensor, data_range: float | None) -> Tensor:
    """Compute MS-SSIM pair by pair.

    Each scale is half as large as the one before. The contrast term counts at all scales but the
    last, where full SSIM does. Windows that reach over the border do not count. Negative values are
    cut off before the weights are applied as powers.

    Args:
        first, second: images (N, C, H, W).
        data_range: the range of values L in the constants (.01 L)^2 and (.03 L)^2. None takes it
            at each scale from all images of the call: one pair's value then depends on the others.

    Returns:
        (N,), at most 1.
    """
    k = kernel_size(min(first.shape[-2:]))
    window = _gaussian_window(k, first)
    value = torch.ones(len(first), dtype=first.dtype, device=first.device)
    for scale, weight in enumerate(SCALES):
        span = _range_of(first, second) if data_range is None else data_range
        full, contrast = _ssim(first, second, window, span)
        term = full if scale == len(SCALES) - 1 else contrast
        value = value * term.relu() ** weight
        first, second = F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)
    return value


def _gaussian_window(k: int, like: Tensor) -> Tensor:
    """Return the weights of a window, (k, k); sigma follows the size."""
    sigma = _SIGMA * k / _LARGEST_KERNEL
    offsets = torch.arange(k, dtype=like.dtype, device=like.device) - k // 2
    line = torch.exp(-((offsets / sigma) ** 2) / 2)
    line = line / line.sum()
    return torch.outer(line, line)


def _range_of(first: Tensor, second: Tensor) -> float:
    return float(max(first.max() - first.min(), second.max() - second.min()))


def _ssim(first: Tensor, second: Tensor, window: Tensor, span: float) -> tuple[Tensor, Tensor]:
    """Return SSIM and its contrast term, each averaged over channels and whole windows, (N,)."""
    channels = first.shape[1]
    weights = window.expand(channels, 1, *window.shape)

    def mean(images: Tensor) -> Tensor:
        return F.conv2d(images, weights, groups=channels)

    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    mean_first, mean_second = mean(first), mean(second)
    variance_first = (mean(first * first) - mean_first**2).clamp_min(0)
    variance_second = (mean(second * second) - mean_second**2).clamp_min(0)
    covariance = mean(first * second) - mean_first * mean_second
    contrast = (2 * covariance + c2) / (variance_first + variance_second + c2)
    luminance = (2 * mean_first * mean_second + c1) / (mean_first**2 + mean_second**2 + c1)
    return (luminance * contrast).flatten(1).mean(1), contrast.flatten(1).mean(1)
