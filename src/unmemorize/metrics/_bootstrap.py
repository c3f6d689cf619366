"""Bootstrap intervals (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

CONFIDENCE = 0.95
_SEED = 0

Array = NDArray[np.float64]


def bootstrap_interval(
    samples: Sequence[Array], statistic: Callable[..., Any], resamples: int, *, vectorized: bool
) -> tuple[float, float]:
    """Return a 95 % percentile interval, the same for the same samples.

    Args:
        samples: independent samples, each (N,) with at least one value. They are resampled
            separately.
        statistic: takes the samples. If vectorized, it also takes ``axis``.
        resamples: number of resamples.
        vectorized: see ``statistic``.

    Examples:
        >>> bootstrap_interval([np.array([3.0])], np.median, 100, vectorized=True)
        (3.0, 3.0)
    """
    result = bootstrap(
        [_at_least_two(sample) for sample in samples],
        statistic,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=vectorized,
        rng=np.random.default_rng(_SEED),
    )
    interval = result.confidence_interval
    return float(interval.low), float(interval.high)


def _at_least_two(sample: Array) -> Array:
    """Double a single value, which scipy refuses. Its resamples are the value itself either way."""
    return np.repeat(sample, 2) if len(sample) == 1 else sample
