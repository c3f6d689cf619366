import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unmemorize import MetricError
from unmemorize.metrics import auroc, tpr_at_fpr

SCORES = st.lists(st.integers(0, 20).map(lambda value: value / 20), min_size=1, max_size=12)


@settings(max_examples=12)  # 500 resamples each
@given(SCORES, SCORES)
@example([0.2], [0.0] * 7 + [0.05, 0.1, 0.15])  # once 1.0000001
def test_auroc_counts_pairs(memorized: list[float], others: list[float]) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in memorized for b in others]
    found = auroc(memorized, others)
    assert found.value == pytest.approx(np.mean(pairs), abs=1e-6)
    assert 0 <= found.low <= found.high <= 1


def best_share(memorized: list[float], others: list[float], fpr: float) -> float:
    limits = [*memorized, *others, 2.0]
    allowed = [limit for limit in limits if np.mean([score >= limit for score in others]) <= fpr]
    return float(max(np.mean([score >= limit for score in memorized]) for limit in allowed))


def test_share_found_at_a_rate_of_false_positives() -> None:
    rng = np.random.default_rng(0)
    memorized, others = rng.normal(1.5, 1, 60).tolist(), rng.normal(0, 1, 300).tolist()
    for rate in (0.01, 0.1):
        assert tpr_at_fpr(memorized, others, rate).value == pytest.approx(
            best_share(memorized, others, rate), abs=1e-6
        )


def test_scores_outside_of_0_to_1_keep_their_order() -> None:
    memorized, others = [90.0, 80.0, 50.0], [10.0, 60.0, 50.0]
    assert auroc(memorized, others).value == pytest.approx(7.5 / 9)
    low, lower = ([score - 2000 for score in scores] for scores in (memorized, others))
    assert tpr_at_fpr(low, lower).value == pytest.approx(2 / 3)


def test_the_interval_is_one_of_95_percent() -> None:
    rng = np.random.default_rng(0)
    memorized, others = rng.normal(0.7, 1, 40), rng.normal(0, 1, 25)
    shares = [
        (rng.choice(memorized, 40)[:, None] > rng.choice(others, 25)[None]).mean()
        for _ in range(4000)
    ]
    found = auroc(memorized.tolist(), others.tolist())
    assert (found.low, found.high) == pytest.approx(np.percentile(shares, [2.5, 97.5]), abs=0.015)
    assert np.abs(np.percentile(shares, [10, 90]) - [found.low, found.high]).min() > 0.03


def test_intervals_shrink_with_more_prompts() -> None:
    rng = np.random.default_rng(0)
    few, many = (
        auroc(rng.normal(1, 1, count).tolist(), rng.normal(0, 1, count).tolist())
        for count in (15, 300)
    )
    assert many.high - many.low < few.high - few.low
    assert str(few) == f"{few.value:.3f} ({few.low:.3f} to {few.high:.3f})"


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(MetricError, match="2 memorized and 0 unmemorized"):
        auroc([0.1, 0.2], [])


@pytest.mark.parametrize("measure", [auroc, tpr_at_fpr])
def test_scores_that_are_no_numbers_are_refused(measure: Callable[..., object]) -> None:
    """NaN once counted as the highest score of all."""
    for memorized, others in (([0.1, math.nan], [0.2]), ([0.1], [math.nan, 0.2])):
        with pytest.raises(MetricError, match=r"1 scores are NaN.*leave them out"):
            measure(memorized, others)
    assert measure([math.inf], [-math.inf, 0.2])


@pytest.mark.parametrize("fpr", [-0.01, 1.01, 5, math.nan])
def test_rates_outside_of_0_to_1_are_refused(fpr: float) -> None:
    with pytest.raises(MetricError, match=f"fpr={fpr}: a rate lies between 0 and 1"):
        tpr_at_fpr([0.3], [0.1], fpr)
