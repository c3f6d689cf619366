"""Conformal levels and p-values, by their definition and by simulation."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from unmemorize.audit._levels import (
    adjusted,
    conformal_p,
    copy_level,
    discoveries_needed,
    smallest_p,
)


def test_nineteen_controls_bound_false_triggers_at_five_percent_by_their_maximum() -> None:
    scores = [number / 100 for number in range(19)]
    level = copy_level(scores, 0.05)
    assert level is not None
    assert (level.tau, level.alpha, level.controls) == (0.18, 0.05, 19)


def test_fewer_controls_give_the_smallest_rate_that_they_allow() -> None:
    level = copy_level([0.3, 0.1, 0.2], 0.05)
    assert level is not None
    assert (level.tau, level.alpha) == (0.3, 0.25)
    assert copy_level([], 0.05) is None


@pytest.mark.parametrize("controls", [19, 24, 40])
def test_fresh_never_trained_images_trigger_within_the_bound(controls: int) -> None:
    rng, trials = np.random.default_rng(3), 4000
    triggered = 0
    for _ in range(trials):
        draws = rng.beta(2, 5, controls + 1)  # any distribution
        level = copy_level(draws[:-1].tolist(), 0.05)
        assert level is not None
        triggered += bool(draws[-1] > level.tau)
    # exact: the chance to exceed the k-th of n is (n + 1 - k) / (n + 1), at most 5 %
    expected = int(0.05 * (controls + 1)) / (controls + 1)
    low, high = binom.ppf([0.001, 0.999], trials, expected)
    assert low <= triggered <= high
    assert triggered <= binom.ppf(0.999, trials, 0.05)


def attacked(record: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Return the best score of each image within each budget, by model, in the first repetition."""
    best: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for values in record["rows"]:
        row = dict(zip(record["columns"], values, strict=True))
        if row["seed"] == 0:
            scores = best[row["arm"]][row["image"]]
            scores[row["budget"]] = max(row["median"], scores.get(row["budget"], -1.0))
    return {
        model: {
            image: list(accumulate((scores[budget] for budget in sorted(scores)), max))
            for image, scores in images.items()
        }
        for model, images in best.items()
    }


def test_other_images_that_a_model_never_saw_trigger_within_the_bound() -> None:
    """Measured: the level of photographs for images of all kinds in a twin without them."""
    path = Path(__file__).parents[2] / "benchmarks" / "records" / "audit" / "images.json"
    models = attacked(json.loads(path.read_text()))
    controls = [scores for image, scores in models["main"].items() if image.startswith("unused")]
    fresh, seen = (
        [
            scores
            for twin in "ab"
            for image, scores in models[twin].items()
            if (image.split()[0] == twin) == lacking  # a twin lacks the half of its own name
        ]
        for lacking in (True, False)
    )
    assert (len(controls), len(fresh), len(seen)) == (29, 48, 48)
    for place in range(6):
        level = copy_level([scores[place] for scores in controls], 0.05)
        assert level is not None
        above = sum(scores[place] > level.tau for scores in fresh)
        assert binom.sf(above - 1, len(fresh), level.alpha) > 0.01
    ten = copy_level([scores[3] for scores in controls], 0.05)
    assert ten is not None
    assert sum(scores[3] > ten.tau for scores in seen) > 24  # the level can be exceeded


def test_p_values_count_ties_against_the_image() -> None:
    assert conformal_p(0.5, [0.5, 0.4, 0.6]) == 0.75
    assert conformal_p(0.7, [0.5, 0.4, 0.6]) == smallest_p(3) == 0.25


def test_adjusted_values_are_those_of_benjamini_and_hochberg() -> None:
    rng = np.random.default_rng(0)
    p_values = rng.uniform(size=12).tolist()
    order = sorted(range(12), key=p_values.__getitem__)
    by_hand = [0.0] * 12
    smallest = 1.0
    for rank in range(12, 0, -1):
        index = order[rank - 1]
        smallest = min(smallest, p_values[index] * 12 / rank)
        by_hand[index] = smallest
    assert adjusted(p_values) == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize(("images", "controls"), [(10, 24), (3, 19), (30, 99), (5, 9)])
def test_so_many_images_must_have_the_smallest_p_before_one_is_found(
    images: int, controls: int
) -> None:
    rate = 0.05
    needed = discoveries_needed(images, controls, rate)

    def found(count: int) -> bool:
        p_values = [smallest_p(controls)] * count + [1.0] * (images - count)
        return min(adjusted(p_values)) <= rate

    for count in range(1, images + 1):
        assert found(count) == (count >= needed)


def test_false_discoveries_stay_within_the_rate() -> None:
    rng, share = np.random.default_rng(1), []
    for _ in range(150):
        controls = rng.normal(size=99).tolist()
        scores = [*rng.normal(4, 1, size=5), *rng.normal(size=15)]  # 5 of 20 are known
        p_values = adjusted([conformal_p(score, controls) for score in scores])
        found = [index for index, p in enumerate(p_values) if p <= 0.2]
        share.append(sum(index >= 5 for index in found) / max(1, len(found)))
    assert 0.05 < np.mean(share) < 0.2  # 20 % of the true nulls' share, 15 %, is expected
