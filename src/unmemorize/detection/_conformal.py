"""Split-conformal calibration: a threshold that bounds the rate of false positives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction

from unmemorize._errors import ThresholdError

FITTING = 5
"""One in so many calibration prompts chooses what the level of the others rests on."""


def conformal_quantile(scores: Sequence[float], max_fpr: float) -> float:
    """Return the level that a new score exceeds with probability at most ``max_fpr``.

    It is the k-th smallest of the n scores with k = ceil((n + 1) (1 - max_fpr)): split-conformal
    calibration with its correction for a finite n (Vovk et al. 2005; Lei et al. 2018, theorem 2).
    The new score must be exchangeable with those given. The bound holds over the draw of the
    calibration prompts, too.

    Args:
        scores: the scores of prompts that are not memorized.
        max_fpr: the bound, in (0, 1).

    Raises:
        ThresholdError: the rate is not in (0, 1), there are too few scores for it, or a score is
            NaN.

    Examples:
        >>> conformal_quantile([0.1, 0.4, 0.2, 0.3], 0.25)
        0.4
    """
    return in_order(scores)[conformal_rank(len(scores), max_fpr) - 1]


def in_order(scores: Sequence[float]) -> list[float]:
    """Sort calibration scores in ascending order.

    Raises:
        ThresholdError: a score is NaN, which has no place in an order.
    """
    if missing := sum(map(math.isnan, scores)):
        raise ThresholdError(
            f"{missing} of {len(scores)} calibration scores are NaN. Score these prompts again, or "
            "leave them out."
        )
    return sorted(scores)


def conformal_rank(count: int, max_fpr: float) -> int:
    """Return which of ``count`` sorted scores is the level, from 1; see `conformal_quantile`.

    Raises:
        ThresholdError: the rate is not in (0, 1), or there are too few scores for it.
    """
    needed = prompts_needed(max_fpr)
    rate = Fraction(str(max_fpr))  # the decimal as written: floats would round 0.1 of 10 up
    rank = count + 1 - math.floor((count + 1) * rate)
    if rank > count:
        raise ThresholdError(too_few(count, max_fpr, needed))
    return rank


def too_few(count: int, max_fpr: float, needed: int) -> str:
    """Say that there are too few prompts for a false positive rate, and how many it takes."""
    return (
        f"{count} prompts are too few for a false positive rate of {max_fpr:g}: it takes at least "
        f"{needed}."
    )


def smallest_rate(count: int, wanted: float) -> float:
    """Return the wanted false positive rate, or the smallest that so many prompts allow.

    It is rounded up to three digits after the leading zeros, so it can be printed and given again.

    Examples:
        >>> smallest_rate(500, 0.01), smallest_rate(99, 0.01), smallest_rate(6, 0.01)
        (0.01, 0.01, 0.143)
    """
    smallest = Decimal(1) / (count + 1)
    rounded = Context(prec=3, rounding=ROUND_CEILING).plus(smallest)
    return max(wanted, float(rounded))


def prompts_needed(rate: float) -> int:
    """Return how many prompts a false positive rate needs.

    Raises:
        ThresholdError: the rate is not in (0, 1).

    Examples:
        >>> prompts_needed(0.01), prompts_needed(0.001)
        (99, 999)
    """
    if not 0 < rate < 1:
        raise ThresholdError(f"max_fpr={rate}: a rate lies between 0 and 1, such as 0.01.")
    return math.ceil(1 / Fraction(str(rate))) - 1
