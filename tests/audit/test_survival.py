"""Curves and tests of budgets to the first trigger."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binom

from unmemorize.audit._survival import earlier_p, trigger_curve, unpaired_earlier_p

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


def test_log_rank_is_one_sided() -> None:
    early, late = [0, 0, 5, 10, 5], [50, None, None, 25, None]
    observed = expected = variance = 0.0
    pairs = [(value, 0) for value in early] + [(value, 1) for value in late]
    for budget in sorted({value for value, _ in pairs if value is not None}):
        at_risk = [arm for value, arm in pairs if value is None or value >= budget]
        fails = [arm for value, arm in pairs if value == budget]
        count, own, failed = len(at_risk), at_risk.count(0), len(fails)
        observed += fails.count(0)
        expected += failed * own / count
        if count > 1:
            variance += failed * (own / count) * (1 - own / count) * (count - failed) / (count - 1)
    z = (observed - expected) / math.sqrt(variance)
    p = 0.5 * math.erfc(z / math.sqrt(2))
    assert unpaired_earlier_p(early, late, 50) == pytest.approx(p, rel=1e-6)
    assert unpaired_earlier_p(late, early, 50) == pytest.approx(1 - p, rel=1e-6)
    assert unpaired_earlier_p([], late, 50) == 1.0
    assert unpaired_earlier_p([None], [None], 50) == 1.0
