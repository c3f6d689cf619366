"""Exact and resampling comparisons of two arms of an audit.

An image is the unit everywhere. Its seeds and starts are combined into one score before, so none
of them counts as an observation of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap, permutation_test, t

from unmemorize.audit._levels import conformal_p

Array = NDArray[np.float64]
_RESAMPLES = 9_999
"""Permutations, where there are too many to try all of them."""
_SEED = 0
_CONFIDENCE = 0.95
"""Of every interval and bound of a verdict."""
_CONSTANT = 1e-18
"""Squared standard error of scores that are all the same but for rounding."""


def sign_flip_p(differences: Sequence[float]) -> float:
    """Test whether paired differences are above 0, by flipping their signs.

    Args:
        differences: score in the edited model minus score in the never-trained one, per image.

    Returns:
        A one-sided p-value, exact for up to 13 images; 1 without an image.

    Examples:
        >>> sign_flip_p([0.5, 0.4, 0.6, 0.3])
        0.0625
    """
    if len(differences) < 2:
        return 0.5 if differences and differences[0] > 0 else 1.0
    return _permuted([np.asarray(differences, dtype=np.float64)], "samples")


def two_sample_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Test whether scores are higher in the first of two unpaired arms, by permutation.

    Returns:
        A one-sided p-value; 1 where an arm has no image.

    Examples:
        >>> round(two_sample_p([0.9, 0.8], [0.1, 0.2]), 4)  # 1 of the 6 ways to split them
        0.1667
    """
    if not first or not second:
        return 1.0
    if len(first) == 1:  # scipy takes no single observation; this is the same test
        return conformal_p(first[0], second)
    if len(second) == 1:
        return conformal_p(-second[0], [-score for score in first])
    arms = [np.asarray(scores, dtype=np.float64) for scores in (first, second)]
    return _permuted(arms, "independent")


def smallest_sign_flip_p(images: int) -> float:
    """Return the smallest p-value that `sign_flip_p` can give; 1 without an image.

    Examples:
        >>> smallest_sign_flip_p(5), smallest_sign_flip_p(48)
        (0.03125, 0.0001)
    """
    return _smallest_p(2**images)


def smallest_two_sample_p(first: int, second: int) -> float:
    """Return the smallest p-value that `two_sample_p` can give; 1 where an arm has no image.

    Examples:
        >>> smallest_two_sample_p(1, 24), smallest_two_sample_p(24, 24)
        (0.04, 0.0001)
    """
    return _smallest_p(comb(first + second, first))


def _smallest_p(permutations: int) -> float:
    """Return the share of one permutation, of all or of those that are drawn."""
    return 1 / min(permutations, _RESAMPLES + 1)


def _permuted(samples: Sequence[Array], kind: Literal["samples", "independent"]) -> float:
    """Return the share of permutations whose (difference of) means is as large as observed."""

    def statistic(*arms: Array, axis: int = -1) -> Array:
        means: list[Array] = [arm.mean(axis) for arm in arms]
        return means[0] - means[1] if len(means) == 2 else means[0]

    result = permutation_test(
        samples,
        statistic,
        permutation_type=kind,  # a single paired sample has its signs flipped
        vectorized=True,
        alternative="greater",
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(_SEED),
    )
    return float(result.pvalue)


def mean_interval(scores: Sequence[float]) -> tuple[float, float]:
    """Return a bootstrap percentile interval of the mean, with images as clusters.

    Args:
        scores: one for each image.

    Examples:
        >>> mean_interval([0.5])
        (0.5, 0.5)
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) == 1 or np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    result = bootstrap(
        (values,),
        np.mean,
        confidence_level=_CONFIDENCE,
        method="percentile",
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(_SEED),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def equivalence_p(
    first: Sequence[float], second: Sequence[float], delta: float, *, paired: bool
) -> float:
    """Test whether two arms differ by less than delta in the mean (two one-sided t tests).

    Args:
        first, second: scores, one for each image. Paired arms hold the same images in one order.
        delta: the largest difference that counts as none, > 0.
        paired: whether to compare image by image. Otherwise the variances may differ (Welch).

    Returns:
        The larger of the two p-values; 1 where an arm has fewer than two images. A t test says
        nothing where all differences are the same: then it is that of the sign test.

    Examples:
        >>> equivalence_p([0.1, 0.2, 0.3], [0.11, 0.19, 0.3], 0.1, paired=True) < 0.01
        True
    """
    if min(len(first), len(second)) < 2:
        return 1.0
    one, two = (np.asarray(scores, dtype=np.float64) for scores in (first, second))
    difference = float(one.mean() - two.mean())
    if paired:
        error, freedom = _squared_error(one - two), len(one) - 1.0
    else:
        errors = _squared_error(one), _squared_error(two)
        error = sum(errors)
        parts = (errors[0] ** 2 / (len(one) - 1), errors[1] ** 2 / (len(two) - 1))
        freedom = error**2 / sum(parts) if error else 1.0  # Welch and Satterthwaite
    if error < _CONSTANT:
        return 0.5 ** min(len(one), len(two)) if abs(difference) < delta else 1.0
    above = t.sf((difference + delta) / error**0.5, freedom)
    below = t.cdf((difference - delta) / error**0.5, freedom)
    return float(max(above, below))


def _squared_error(values: Array) -> float:
    """Return the squared standard error of a mean."""
    return float(values.var(ddof=1)) / len(values)


def rate_bounds(triggered: int, images: int) -> tuple[float, float]:
    """Return the one-sided lower and the one-sided upper Clopper-Pearson bound of a rate.

    Examples:
        >>> [round(bound, 3) for bound in rate_bounds(0, 24)]
        [0.0, 0.117]
    """
    counted = binomtest(triggered, images)
    both_sided = 2 * _CONFIDENCE - 1  # its two bounds are one-sided ones of this confidence
    interval = counted.proportion_ci(both_sided, method="exact")
    return float(interval.low), float(interval.high)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values adjusted by the step-down procedure of Holm (1979), in the given order.

    Rejecting those at most alpha errs anywhere in the family with probability at most alpha.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        (0.03, 0.06, 0.06)
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for left, index in zip(
        range(len(p_values), 0, -1),
        sorted(range(len(p_values)), key=p_values.__getitem__),
        strict=True,
    ):
        largest = max(largest, min(1.0, left * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)
