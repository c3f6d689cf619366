"""Curves and tests of budgets to the first trigger."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from scipy.stats import binom

from unmemorize.audit._survival import earlier_p, trigger_curve, unpaired_earlier_p

Budget = float | None
FIRST = [0, 5, 5, 25, None, 50, None, 50]


def test_the_curve_is_the_product_limit() -> None:
    share, expected = 1.0, []
    for budget in (0, 5, 25, 50):
        at_risk = sum(value is None or value >= budget for value in FIRST)
        share *= 1 - sum(value == budget for value in FIRST) / at_risk
        expected.append(share)
    curve = trigger_curve(FIRST, 50)
    assert list(curve.budgets) == [0, 5, 25, 50]
    assert curve.untriggered == pytest.approx(expected)
    assert trigger_curve([], 50).budgets == ()
    assert trigger_curve([None, None], 50).untriggered == ()


def test_signs_count_pairs_that_differ() -> None:
    first, second = [0, 5, 5, None, 10, 50], [5, 5, None, 25, 25, None]
    # earlier in 4 of the 5 pairs that differ; 5 and 5 does not count
    assert earlier_p(first, second) == pytest.approx(binom.sf(3, 5, 0.5))
    assert earlier_p([None], [None]) == 1.0


def observed_minus_expected(first: list[Budget], second: list[Budget]) -> float:
    """The numerator of the log-rank test, by its definition."""
    difference = 0.0
    pairs = [(value, 0) for value in first] + [(value, 1) for value in second]
    for budget in sorted({value for value, _ in pairs if value is not None}):
        at_risk = [arm for value, arm in pairs if value is None or value >= budget]
        fails = [arm for value, arm in pairs if value == budget]
        difference += fails.count(0) - len(fails) * at_risk.count(0) / len(at_risk)
    return difference


@pytest.mark.parametrize(
    ("early", "late"),
    [
        ([0], [50, None, 5, 25, None]),
        ([0, 25], [50, None, 5, 25, None]),
        ([0, 5, None], [50, None, 5, 25, None]),
        ([0, 0, 5, 10, 5], [50, None, None, 25, None]),
        ([0, None], [0, None]),
    ],
)
def test_log_rank_is_compared_with_every_split(early: list[Budget], late: list[Budget]) -> None:
    together = early + late
    every = range(len(together))
    for first, second in ((early, late), (late, early)):
        observed = observed_minus_expected(first, second)
        splits = [
            observed_minus_expected(
                [together[place] for place in chosen],
                [together[place] for place in every if place not in chosen],
            )
            for chosen in combinations(every, len(first))
        ]
        share = sum(each >= observed - 1e-9 for each in splits) / len(splits)
        assert unpaired_earlier_p(first, second) == pytest.approx(share)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_few_images_never_have_a_smaller_p_than_there_are_splits(images: int) -> None:
    """The normal approximation of the log-rank test said 4.8e-7 for one image."""
    p = unpaired_earlier_p([0] * images, [None] * 24)
    assert p == pytest.approx(1 / math.comb(24 + images, images))


def test_nothing_to_compare_has_no_p() -> None:
    assert unpaired_earlier_p([], [50, None]) == 1.0
    assert unpaired_earlier_p([None], [None]) == 1.0
