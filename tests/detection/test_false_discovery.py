"""False discoveries among many prompts."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from unmemorize import ThresholdError, discoveries, fewest_discoveries
from unmemorize.detection import conformal_p_value


def drawn(rng: np.random.Generator, memorized: int, others: int) -> np.ndarray:
    """Scores of memorized prompts, then of ordinary ones."""
    return np.concatenate([rng.normal(4, 1, memorized), rng.normal(0, 1, others)])


@pytest.mark.parametrize("rate", [0.05, 0.2])
@pytest.mark.parametrize("memorized", [0, 30, 150])
def test_the_rate_holds_over_draws_of_calibration_and_prompts(rate: float, memorized: int) -> None:
    rng = np.random.default_rng(memorized)
    shares, found = [], 0
    for _ in range(300):
        calibration = sorted(rng.normal(0, 1, 300))
        scores = drawn(rng, memorized, 300 - memorized)
        result = discoveries(scores, calibration, rate)
        called = [conformal_p_value(score, calibration) <= result.p_value for score in scores]
        assert sum(called) == result.count
        shares.append(sum(called[memorized:]) / max(1, result.count))
        found += sum(called[:memorized])
    expected = rate * (300 - memorized) / 300
    assert np.mean(shares) <= expected + 3 * np.std(shares) / 300**0.5
    if memorized == 150:
        assert np.mean(shares) > 0.5 * expected
        assert found > 0.8 * memorized * 300


def test_the_procedure_is_that_of_benjamini_and_hochberg() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        calibration = sorted(rng.normal(0, 1, 60))
        scores = np.round(drawn(rng, 20, 40), 1)
        ordinary = np.asarray(calibration)
        p_values = [(1 + (ordinary >= score).sum()) / 61 for score in scores]
        expected = false_discovery_control(p_values) <= 0.1 + 1e-12
        assert discoveries(scores, calibration, 0.1).count == expected.sum()
        assert [conformal_p_value(score, calibration) for score in scores] == p_values


def test_cleared_prompts_with_scores_that_are_too_low_keep_the_rate() -> None:
    rng = np.random.default_rng(5)
    shares = []
    for _ in range(300):
        calibration, scores = sorted(rng.normal(0, 1, 200)), drawn(rng, 60, 140)
        scores = np.where(scores < 1.5, scores - rng.exponential(1, 200), scores)
        result = discoveries(scores, calibration, 0.2)
        called = np.asarray([conformal_p_value(s, calibration) for s in scores]) <= result.p_value
        shares.append(called[60:].sum() / max(1, result.count))
    assert np.mean(shares) <= 0.2 * 140 / 200 + 3 * np.std(shares) / 300**0.5


@pytest.mark.parametrize("fewest", [1, 2, 40])
def test_nothing_is_found_below_the_fewest_discoveries(fewest: int) -> None:
    calibration, rate = [0.0] * 199, 0.05
    prompts = fewest * 10  # m / ((n + 1) q) = m / 10
    assert fewest_discoveries(prompts, len(calibration), rate) == fewest
    for hits in (fewest - 1, fewest):
        scores = [1.0] * hits + [-1.0] * (prompts - hits)
        assert discoveries(scores, calibration, rate).count == (hits if hits >= fewest else 0)


def test_scores_are_read_once_and_ties_with_the_calibration_count_against_a_prompt() -> None:
    result = discoveries(iter([0.9, 1.0, 1.1]), [0.2, 1.0, 0.5], 0.9)
    assert (result.prompts, result.calibration) == (3, 3)
    assert conformal_p_value(1.0, [0.2, 0.5, 1.0]) == 0.5
    assert conformal_p_value(1.1, [0.2, 0.5, 1.0]) == 0.25
    assert discoveries([], [0.1], 0.5).count == 0


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_a_rate_lies_between_0_and_1(rate: float) -> None:
    with pytest.raises(ThresholdError, match="a rate lies between 0 and 1"):
        discoveries([1.0], [0.0], rate)
    with pytest.raises(ThresholdError, match="a rate lies between 0 and 1"):
        fewest_discoveries(10, 10, rate)


def test_without_a_calibration_there_are_no_p_values() -> None:
    with pytest.raises(ThresholdError, match="Calibrate one: unmemorize threshold"):
        discoveries([1.0], [], 0.1)
