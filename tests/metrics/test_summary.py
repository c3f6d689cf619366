from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binom, median_abs_deviation

from unmemorize import MetricError
from unmemorize.metrics import Summary, summarize, wilson_interval

VALUES = [0.1, 0.4, 0.2, 0.9, 0.35, 0.8, 0.75, 0.3, 0.6]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40))
@example([0.0, 1.824836599104134e-216, 1.824836599104134e-216])  # its interval rounds below it
def test_summary_against_scipy(values: list[float]) -> None:
    summary = summarize(values)
    assert summary.median == pytest.approx(float(np.median(values)))
    assert summary.mad == pytest.approx(float(median_abs_deviation(values)), abs=1e-9)
    assert min(values) <= summary.low <= summary.median <= summary.high <= max(values)
    assert summary.count == len(values)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40))
def test_lower_medians_against_torch(values: list[float]) -> None:
    numbers = torch.tensor(values, dtype=torch.float64)
    summary = summarize(values, "lower")
    median = numbers.median()
    assert summary.median == float(median)
    assert summary.mad == float((numbers - median).abs().median())
    assert summary.low - 1e-9 <= summary.median <= summary.high + 1e-9


def test_mad_is_about_the_median_and_not_scaled() -> None:
    summary = summarize([1.0, 2.0, 4.0, 9.0, 30.0])
    assert (summary.median, summary.mad) == (4.0, 3.0)
    assert str(summary) == "4.000 ± 3.000"


def exact_quantile(values: list[float], share: float) -> float:
    """The quantile of the median of a resample, from the binomial distribution.

    With an odd number of values, the median of a resample is at most the i-th smallest value
    exactly if more than half of its members are among the i smallest ones.
    """
    count = len(values)
    for rank, value in enumerate(sorted(values), 1):
        if binom.sf(count // 2, count, rank / count) >= share:
            return value
    raise AssertionError


def test_the_interval_is_one_of_the_median_at_95_percent() -> None:
    rng = np.random.default_rng(3)
    values = rng.exponential(size=101).tolist()
    summary = summarize(values)
    ranks = np.argsort(np.argsort(sorted(values)))
    ordered = sorted(values)
    for end, share in ((summary.low, 0.025), (summary.high, 0.975)):
        rank = ranks[ordered.index(exact_quantile(values, share))]
        assert ordered[rank - 1] <= end <= ordered[rank + 1]
    for end, share in ((summary.low, 0.1), (summary.high, 0.9)):
        assert abs(end - exact_quantile(values, share)) > 0.02


def test_intervals_are_the_same_every_time_and_shrink() -> None:
    assert summarize(VALUES) == summarize(VALUES)
    few, many = summarize(VALUES), summarize(VALUES * 30)
    assert many.high - many.low < few.high - few.low


def test_one_value_is_its_own_interval() -> None:
    assert summarize([0.25]) == Summary(median=0.25, mad=0.0, low=0.25, high=0.25, count=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "0 value"), ([float("nan")], "finite"), ([1.0, float("inf")], "2 value.*finite")],
)
def test_what_has_no_summary_is_refused(values: list[float], message: str) -> None:
    with pytest.raises(MetricError, match=message):
        summarize(values)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(MetricError, match="share of 0"):
        wilson_interval(0, 0)


def test_wilson_interval_by_its_formula() -> None:
    hits, count, z = 7, 60, 1.959963984540054
    share = hits / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    assert wilson_interval(hits, count) == pytest.approx((centre - half, centre + half))


def test_one_trial_is_enough_for_an_interval() -> None:
    assert wilson_interval(1, 1) == pytest.approx((0.2065, 1.0), abs=1e-4)
    with pytest.raises(MetricError, match="a share of 0 trials has no interval"):
        wilson_interval(0, 0)


def test_whole_numbers_are_summed_up_as_floats() -> None:
    assert summarize([1, 2]).median == 1.5
    assert isinstance(summarize([1, 2]).low, float)
