"""Summaries of many prompts: medians, their spread, and how certain they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from unmemorize._errors import MetricError
from unmemorize.metrics._bootstrap import CONFIDENCE, bootstrap_interval
from unmemorize.metrics._medians import MEDIANS, MedianName

_RESAMPLES = 2000


@dataclass(frozen=True)
class Summary:
    """A median over prompts.

    Args:
        median: the median.
        mad: the median absolute deviation from it, not scaled.
        low, high: the 95 % bootstrap interval of the median (percentiles of 2,000 resamples).
        count: number of prompts.
    """

    median: float
    mad: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.median:.3f} ± {self.mad:.3f}"


def summarize(values: Sequence[float], medians: MedianName = "middle") -> Summary:
    """Summarize one number per prompt.

    Args:
        values: the numbers.
        medians: which median of an even number of values is taken, also for the deviation.

    Raises:
        MetricError: there is no number, or one is not finite.

    Examples:
        >>> summary = summarize([1.0, 2.0, 9.0])
        >>> summary.median, summary.mad, summary.count
        (2.0, 1.0, 3)
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array) or not np.isfinite(array).all():
        raise MetricError(
            f"cannot sum up {len(array)} value(s): there must be at least one, all of them finite. "
            "Look at the records of the run."
        )
    median = MEDIANS[medians]
    middle = median(array)
    interval = bootstrap_interval([array], median, _RESAMPLES, vectorized=True)
    # interpolation between equal values may round past them
    low, high = np.clip(interval, array.min(), array.max())
    return Summary(
        median=float(middle),
        mad=float(median(np.abs(array - middle))),
        low=float(min(low, middle)),
        high=float(max(high, middle)),
        count=len(array),
    )


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927), both ends in [0, 1].

    Args:
        hits: number of hits.
        count: number of trials, at least 1.

    Raises:
        MetricError: the count is 0.

    Examples:
        >>> low, high = wilson_interval(0, 60)
        >>> round(low, 3), round(high, 3)
        (0.0, 0.06)
    """
    if count < 1:
        raise MetricError("a share of 0 trials has no interval. Give at least one trial.")
    interval = binomtest(hits, count).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)
