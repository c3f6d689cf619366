"""How far images and sets of images are apart, written out once more to check the package's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvals

Array = NDArray[Any]


def correlation(first: Array, second: Array) -> float:
    """Correlate the pixels of two images, each channel relative to its mean."""
    a, b = first - first.mean((0, 1)), second - second.mean((0, 1))
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm else 0.0


def frechet(first: Array, second: Array) -> float:
    """Return the Fréchet distance of two Gaussians fitted to features."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    gap = a.mean(0) - b.mean(0)
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(eigvals(one @ two).astype(complex)).real.sum()
    return float(gap @ gap + np.trace(one) + np.trace(two) - 2 * root)


def kernel_distance(first: Array, second: Array) -> float:
    """Return the unbiased squared discrepancy under the kernel (x.y / D + 1)^3."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    size = a.shape[1]

    def kernel(x: Array, y: Array) -> Array:
        values: Array = (x @ y.T / size + 1) ** 3
        return values

    def within(x: Array) -> float:
        values = kernel(x, x)
        return float((values.sum() - np.trace(values)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())
