"""Budgets to the first trigger: curves with censoring, and tests between arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import CensoredData, binomtest, ecdf

from unmemorize.audit._comparisons import two_sample_p


@dataclass(frozen=True)
class TriggerCurve:
    """The share of images that are not triggered yet, by budget (Kaplan and Meier 1958).

    Args:
        budgets: where the curve falls, rising.
        untriggered: the share from this budget on, in [0, 1].
    """

    budgets: tuple[float, ...]
    untriggered: tuple[float, ...]


def trigger_curve(first: Sequence[float | None], last: float) -> TriggerCurve:
    """Estimate the curve of an arm.

    Args:
        first: the first budget at which each image is triggered; None for one that is not
            triggered within the largest budget.
        last: the largest budget, at which those images are censored.

    Examples:
        >>> trigger_curve([5, 10, None, None], 50)
        TriggerCurve(budgets=(5.0, 10.0), untriggered=(0.75, 0.5))
    """
    if not first:
        return TriggerCurve((), ())
    survival = ecdf(_censored(first, last)).sf
    falls = [
        (float(budget), float(share))
        for budget, share in zip(survival.quantiles, survival.probabilities, strict=True)
        if any(value == budget for value in first)
    ]
    return TriggerCurve(
        tuple(budget for budget, _ in falls), tuple(round(share, 12) for _, share in falls)
    )


def earlier_p(first: Sequence[float | None], second: Sequence[float | None]) -> float:
    """Test by signs whether the same images trigger at a smaller budget in the first arm.

    Pairs that trigger at the same budget, or both never, do not count.

    Args:
        first, second: the first budget at which each image is triggered; None for never.

    Returns:
        A one-sided exact p-value; 1 without a pair that counts.

    Examples:
        >>> earlier_p([5, 5, 0, 10], [None, 50, 25, 10])
        0.125
    """
    never = float("inf")
    pairs = [
        (never if one is None else one, never if two is None else two)
        for one, two in zip(first, second, strict=True)
    ]
    counted = [one < two for one, two in pairs if one != two]
    if not counted:
        return 1.0
    return float(binomtest(sum(counted), len(counted), alternative="greater").pvalue)


def unpaired_earlier_p(first: Sequence[float | None], second: Sequence[float | None]) -> float:
    """Test whether other images trigger at smaller budgets in the first arm (log-rank).

    The statistic is compared with that of other splits of the images into two arms: its normal
    approximation is far too small for the few images of an audit.

    Returns:
        A one-sided p-value; 1 where an arm is empty or nothing is triggered in either.

    Examples:
        >>> unpaired_earlier_p([0], [None] * 24)  # one of 25 images that may be the only one
        0.04
    """
    if not first or not second or all(value is None for value in (*first, *second)):
        return 1.0
    scores = _log_rank_scores([*first, *second])
    return two_sample_p(scores[: len(first)], scores[len(first) :])


def _log_rank_scores(first: Sequence[float | None]) -> list[float]:
    """Return for each image whether it is triggered, minus how much of that is expected.

    Over an arm, they add up to the observed minus the expected triggers of the log-rank test. What
    is expected of an image is the hazard of all images up to its own budget (Nelson and Aalen).
    """
    hazard, until = 0.0, dict[float | None, float]()
    for budget in sorted({value for value in first if value is not None}):
        at_risk = sum(value is None or value >= budget for value in first)
        hazard += first.count(budget) / at_risk
        until[budget] = hazard
    until[None] = hazard
    return [(value is not None) - until[value] for value in first]


def _censored(first: Sequence[float | None], last: float) -> CensoredData:
    return CensoredData(
        uncensored=[value for value in first if value is not None],
        right=[last for value in first if value is None],
    )
