"""Bisection on made-up scores, where every subset can be looked at, and on a model."""

from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, cast

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st

from conftest import PLANTED_PROMPT, PROMPTS
from unmemorize import (
    LocalizationSettings,
    Model,
    Neurons,
    NoiseSettings,
    calibrate_threshold,
    compute_statistics,
    localize,
    switched_off,
)
from unmemorize.detection import make_probe, noise_differences, similarity
from unmemorize.localization import Limit
from unmemorize.localization._bisection import refine_by_bisection
from unmemorize.localization._selection import LayerCandidates, Selection


@dataclass
class Scores:
    """An evaluator whose scores follow from weights: what is switched on again raises the score by its weight, pairs by more."""

    weights: list[float]
    pairs: dict[tuple[int, int], float] = field(default_factory=dict)
    tests: int = 0

    def score(self, off: Neurons) -> float:
        on = [index for index in range(len(self.weights)) if ("a", index) not in set(off)]
        extra = sum(
            weight for (first, second), weight in self.pairs.items() if first in on and second in on
        )
        return 0.1 + sum(self.weights[index] for index in on) + extra

    def below(self, off: Neurons, limit: Limit) -> float | None:
        self.tests += 1
        score = self.score(off)
        return score if score < limit.value else None

    def effects(self, off: Neurons) -> dict[tuple[str, int], float]:
        return {("a", index): self.weights[index] for _, index in off}


def refine(scores: Scores, limit: float, z: list[float] | None = None) -> Any:
    count = len(scores.weights)
    candidates = {"a": LayerCandidates(tuple(range(count)), ())}
    full = scores.score(Neurons({"a": range(count)}))
    selection = Selection(candidates, full, 5.0, 0, floor=full > limit)
    ranking = {
        ("a", index): value for index, value in enumerate(z or list(np.linspace(9, 5, count)))
    }
    return refine_by_bisection(
        cast(Any, scores), selection, Limit(full if full > limit else limit), ranking
    )


@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.3, -0.02]), min_size=1, max_size=14),
    st.dictionaries(
        st.tuples(st.integers(0, 6), st.integers(7, 13)), st.sampled_from([0.05, 0.2]), max_size=4
    ),
    st.floats(0.11, 0.9),
)
def test_the_result_is_below_the_limit_and_none_of_it_can_go_alone(
    weights: list[float], pairs: dict[tuple[int, int], float], limit: float
) -> None:
    scores = Scores(weights, pairs)
    found = refine(scores, limit)
    everything = Neurons({"a": range(len(weights))})
    threshold = scores.score(everything) if scores.score(everything) > limit else limit
    assert found.score == pytest.approx(scores.score(found.neurons))
    assert found.score < threshold or found.neurons == everything
    for neuron in found.neurons:
        assert scores.score(found.neurons - Neurons.of([neuron])) >= threshold


def test_one_strong_neuron_takes_two_tests() -> None:
    scores = Scores([0.5, *[0.0] * 60])
    assert refine(scores, 0.4).neurons == Neurons({"a": [0]})
    assert scores.tests == 2


def test_a_memory_spread_over_few_of_many_takes_few_tests() -> None:
    """Those that matter have the lowest z-scores, so that only their effect tells them."""
    weights = [0.0] * 100 + [0.1] * 12
    scores = Scores(weights)
    found = refine(scores, 0.25)
    assert len(found.neurons) == 11
    assert {index for _, index in found.neurons} <= set(range(100, 112))
    assert scores.tests < 40


def test_effects_that_are_not_finite_are_not_used() -> None:
    class Overflown(Scores):
        def effects(self, off: Neurons) -> dict[tuple[str, int], float]:
            return dict.fromkeys(off, float("nan"))

    found = refine(Overflown([0.0] * 10 + [0.3] * 2), 0.35)
    assert {index for _, index in found.neurons} == {10, 11}


def test_the_smallest_sets_are_found_where_effects_add_up() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        weights = np.round(rng.random(9) * 0.2, 3).tolist()
        scores, limit = Scores(weights), 0.4
        smallest = next(
            size
            for size in range(10)
            if any(
                scores.score(Neurons({"a": chosen})) < limit
                for chosen in combinations(range(9), size)
            )
        )
        assert len(refine(scores, limit).neurons) <= smallest + 3


def test_on_a_model_the_guarantee_holds_by_whole_forwards(planted: DiffusionPipeline) -> None:
    noise = NoiseSettings(seeds=4)
    statistics = compute_statistics(
        planted, [*PROMPTS, *(f"{letter} word" for letter in "abcdefghijkl")]
    )
    threshold = replace(calibrate_threshold(planted, PROMPTS, settings=noise), tau=0.4)
    settings = LocalizationSettings(noise=noise, theta=2.0)
    found = localize(
        planted, PLANTED_PROMPT, statistics=statistics, threshold=threshold, settings=settings
    )
    model = Model(planted)
    assert found.detection is not None
    probe = make_probe(model, model.encode([PLANTED_PROMPT]), noise).keep(
        list(found.detection.memorized_seeds)
    )
    unblocked = noise_differences(model, probe)

    def score(off: Neurons) -> float:
        with switched_off(planted, off):
            return float(similarity(unblocked, noise_differences(model, probe)).max())

    assert (found.refinement, found.minimal) == ("bisect", True)
    assert found.threshold is not None
    assert found.score == pytest.approx(score(found.neurons), abs=1e-5)
    assert score(found.neurons) < found.threshold
    assert len(found.initial) > len(found.neurons) >= 1
    for neuron in found.neurons:
        assert score(found.neurons - Neurons.of([neuron])) >= found.threshold - 1e-5
