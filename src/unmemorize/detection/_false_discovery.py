"""Which of many prompts are memorized if few of those found may be wrong."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from unmemorize._errors import ThresholdError
from unmemorize.detection._conformal import in_order


@dataclass(frozen=True, kw_only=True)
class Discoveries:
    """The prompts found by `discoveries`.

    Args:
        rate: the false discovery rate that is bounded.
        prompts: how many prompts were judged together.
        calibration: how many calibration scores they were compared with.
        count: how many prompts are discoveries.
        p_value: the highest p-value of a discovery; 0 if there is none.
    """

    rate: float
    prompts: int
    calibration: int
    count: int
    p_value: float


def conformal_p_value(score: float, ordered: Sequence[float]) -> float:
    """Return how likely a prompt that is not memorized scores at least that high.

    It is (1 + how many of n calibration scores are at least as high) / (n + 1), see Bates et al.
    (Annals of Statistics 2023). No p-value is below 1 / (n + 1).

    Args:
        score: the score of the prompt.
        ordered: the calibration scores in ascending order.

    Examples:
        >>> conformal_p_value(0.35, [0.1, 0.2, 0.3, 0.4])
        0.4
    """
    return (len(ordered) - bisect_left(ordered, score) + 1) / (len(ordered) + 1)


def fewest_discoveries(prompts: int, calibration: int, rate: float) -> int:
    """Return how many discoveries it takes at least for `discoveries` to find any.

    Conformal p-values have a lower limit, so few memorized prompts among very many are not found:
    m / ((n + 1) q) of m prompts is the least with n calibration scores at the rate q.

    Args:
        prompts: how many prompts are judged together.
        calibration: how many calibration scores there are.
        rate: the false discovery rate, in (0, 1).

    Raises:
        ThresholdError: the rate is not in (0, 1).

    Examples:
        >>> fewest_discoveries(50_000, 1_600, 0.05)
        625
    """
    return max(1, math.ceil(prompts / ((calibration + 1) * _checked(rate))))


def discoveries(scores: Iterable[float], calibration: Sequence[float], rate: float) -> Discoveries:
    """Find the memorized prompts of a list such that few of those found are not memorized.

    This is the procedure of Benjamini and Hochberg over conformal p-values. At most a share
    ``rate`` of what is found is expected not to be memorized, if prompts that are not memorized
    are exchangeable with those of the calibration (Bates et al., Annals of Statistics 2023). Memory
    grows with the calibration alone, whatever the number of scores.

    Args:
        scores: the score of each prompt. A score that is too low, as of a cascade that cleared the
            prompt, costs discoveries but keeps the bound.
        calibration: scores of prompts that are not memorized, such as
            ``threshold.detect.scores``.
        rate: the false discovery rate, in (0, 1).

    Returns:
        How many were found, and their highest p-value, see `conformal_p_value`.

    Raises:
        ThresholdError: the rate is not in (0, 1), there are no calibration scores, or one of them
            is NaN.

    Examples:
        >>> ordinary = [number / 100 for number in range(99)]
        >>> discoveries([0.5, 0.2, 1.2, 1.3], ordinary, 0.1)
        Discoveries(rate=0.1, prompts=4, calibration=99, count=2, p_value=0.01)
    """
    exact = _checked(rate)
    if not calibration:
        raise ThresholdError(
            "a false discovery rate needs the scores of a calibration, and this threshold has "
            "none. Calibrate one: unmemorize threshold"
        )
    ordered, total = in_order(calibration), len(calibration) + 1
    counts = [0] * total  # of prompts by p-value * (n + 1) - 1
    for score in scores:
        counts[len(ordered) - bisect_left(ordered, score)] += 1
    prompts, found, rank = sum(counts), 0, 0
    for level, below in enumerate(accumulate(counts), start=1):
        if counts[level - 1] and Fraction(level, total) * prompts <= below * exact:
            found, rank = below, level
    return Discoveries(
        rate=rate,
        prompts=prompts,
        calibration=len(ordered),
        count=found,
        p_value=rank / total,
    )


def _checked(rate: float) -> Fraction:
    if not 0 < rate < 1:
        raise ThresholdError(f"fdr={rate}: a rate lies between 0 and 1, such as 0.05.")
    return Fraction(str(rate))  # the decimal as written
