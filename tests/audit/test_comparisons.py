"""Tests between arms, against their definitions written out."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from unmemorize.audit._comparisons import (
    equivalence_p,
    holm,
    mean_interval,
    rate_bounds,
    sign_flip_p,
    two_sample_p,
)

DIFFERENCES = [0.31, -0.12, 0.25, 0.4, -0.05, 0.11]


def test_sign_flips_are_all_tried() -> None:
    sums = [
        sum(sign * value for sign, value in zip(signs, DIFFERENCES, strict=True))
        for signs in product((1, -1), repeat=len(DIFFERENCES))
    ]
    expected = np.mean([total >= sum(DIFFERENCES) - 1e-12 for total in sums])
    assert sign_flip_p(DIFFERENCES) == pytest.approx(expected)
    assert sign_flip_p([-value for value in DIFFERENCES]) > 0.9
    assert (sign_flip_p([]), sign_flip_p([0.4]), sign_flip_p([-0.4])) == (1.0, 0.5, 1.0)


def test_sign_flips_hold_their_level_where_there_is_no_difference() -> None:
    rng = np.random.default_rng(0)
    p_values = [sign_flip_p(rng.normal(size=8).tolist()) for _ in range(150)]
    assert stats.binomtest(sum(p <= 0.05 for p in p_values), 150, 0.05).pvalue > 0.001


def test_unpaired_scores_are_split_in_every_way() -> None:
    first, second = [0.9, 0.4, 0.8], [0.2, 0.5, 0.1, 0.3]
    together = first + second
    means = [
        np.mean([together[index] for index in chosen])
        - np.mean([together[index] for index in range(7) if index not in chosen])
        for chosen in combinations(range(7), 3)
    ]
    observed = np.mean(first) - np.mean(second)
    assert two_sample_p(first, second) == pytest.approx(
        np.mean(np.array(means) >= observed - 1e-12)
    )
    assert two_sample_p(second, first) > 0.9


def test_a_single_score_is_ranked_among_the_others() -> None:
    assert two_sample_p([0.9], [0.1, 0.2, 0.3]) == 0.25
    assert two_sample_p([0.1, 0.2, 0.3], [0.0]) == 0.25
    assert two_sample_p([0.1, 0.2, 0.3], [0.25]) == 0.75
    assert two_sample_p([], [0.1]) == 1.0


def test_equivalence_is_two_one_sided_t_tests() -> None:
    first = np.array([0.21, 0.34, 0.28, 0.40, 0.25])
    second = np.array([0.24, 0.30, 0.27, 0.43, 0.20])
    paired = equivalence_p(first.tolist(), second.tolist(), 0.1, paired=True)
    assert paired == pytest.approx(
        max(
            stats.ttest_1samp(first - second, -0.1, alternative="greater").pvalue,
            stats.ttest_1samp(first - second, 0.1, alternative="less").pvalue,
        )
    )
    assert paired < 0.01
    assert equivalence_p(first.tolist(), (second + 0.3).tolist(), 0.1, paired=True) > 0.9
    longer = np.append(second, 0.9)
    unpaired = equivalence_p(first.tolist(), longer.tolist(), 0.1, paired=False)
    assert unpaired == pytest.approx(
        max(
            stats.ttest_ind(first + 0.1, longer, equal_var=False, alternative="greater").pvalue,
            stats.ttest_ind(first - 0.1, longer, equal_var=False, alternative="less").pvalue,
        )
    )


def test_equivalence_of_equal_or_too_few_scores() -> None:
    assert equivalence_p([0.1, 0.1], [0.1, 0.1], 0.1, paired=True) == 0.25
    assert equivalence_p([0.1] * 5, [0.15] * 5, 0.1, paired=True) == 0.5**5
    assert equivalence_p([0.1] * 5, [0.15] * 3, 0.1, paired=False) == 0.5**3
    assert equivalence_p([0.5, 0.5], [0.1, 0.1], 0.1, paired=False) == 1.0
    assert equivalence_p([0.1], [0.1], 0.1, paired=True) == 1.0


def test_bounds_of_rates_are_those_of_clopper_and_pearson() -> None:
    assert rate_bounds(0, 24)[1] == pytest.approx(1 - 0.05 ** (1 / 24))
    low, high = rate_bounds(3, 20)
    assert stats.binom.sf(2, 20, low) == pytest.approx(0.05)
    assert stats.binom.cdf(3, 20, high) == pytest.approx(0.05)


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    p_values = [0.011, 0.02, 0.03, 0.5]
    adjusted = holm(p_values)
    for index in range(4):
        worst = max(
            min(1.0, len(family) * min(p_values[member] for member in family))
            for size in range(1, 5)
            for family in combinations(range(4), size)
            if index in family
        )
        assert adjusted[index] == pytest.approx(worst)
    assert holm([]) == ()


def test_the_interval_of_a_mean_covers_images_not_seeds() -> None:
    low, high = mean_interval(DIFFERENCES)
    error = np.std(DIFFERENCES) / np.sqrt(len(DIFFERENCES))
    assert low == pytest.approx(np.mean(DIFFERENCES) - 1.96 * error, abs=0.03)
    assert high == pytest.approx(np.mean(DIFFERENCES) + 1.96 * error, abs=0.03)
    assert mean_interval(DIFFERENCES) == (low, high)
    assert mean_interval([0.2, 0.2]) == (0.2, 0.2)
