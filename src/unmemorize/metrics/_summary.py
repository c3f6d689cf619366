"""How numbers of many prompts are summed up: medians, their spread, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmemorize._errors import MetricError

_RESAMPLES = 2000


@dataclass(frozen=True)
class Summary:
    """Median +- MAD over prompts, with a 95 % bootstrap interval of the median (percentiles of 2,000 resamples, fixed seed)."""

    median: float
    mad: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.median:.3f} ± {self.mad:.3f}"


def summarize(values: Sequence[float]) -> Summary:
    """Sum up one number per prompt.

    Raises:
        MetricError: there are none, or one is not finite.

    >>> summary = summarize([1.0, 2.0, 9.0])
    >>> summary.median, summary.mad, summary.count
    (2.0, 1.0, 3)
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array) or not np.isfinite(array).all():
        raise MetricError(
            f"cannot sum up {len(array)} value(s): there must be at least one, and all finite. Look at the records of the run."
        )
    median = float(np.median(array))
    rows = np.random.default_rng(0).integers(len(array), size=(_RESAMPLES, len(array)))
    low, high = np.percentile(np.median(array[rows], axis=1), [2.5, 97.5])
    return Summary(
        median, float(np.median(np.abs(array - median))), float(low), float(high), len(array)
    )


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), both ends in [0, 1].

    Raises:
        MetricError: the count is 0.

    >>> low, high = wilson_interval(0, 60)
    >>> round(low, 3), round(high, 3)
    (0.0, 0.06)
    """
    from scipy.stats import binomtest

    if count < 1:
        raise MetricError("a share of 0 units has no interval. Give some units.")
    interval = binomtest(hits, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
