"""Bisection on made-up scores, where every subset can be looked at, and on a model."""

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import PLANTED_PROMPT, PROMPTS, one_number, planted_pipeline
from scored import Scored, context, needing, selected
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
from unmemorize.localization._refinement import Refinement
from unmemorize.localization._selection import LayerCandidates


@dataclass
class Scores:
    """An evaluator whose scores follow from weights.

    A neuron that is on again raises the score by its weight, and pairs raise it by more.
    """

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


def refine(
    scores: Any, limit: float, z: list[float] | None = None, count: int | None = None
) -> Refinement:
    count = len(scores.weights) if count is None else count
    candidates = {"a": LayerCandidates(tuple(range(count)), ())}
    full = scores.score(Neurons({"a": range(count)}))
    selection = selected(candidates, full, theta_exhausted=full > limit)
    z_scores = {"a": z if z else np.linspace(9, 5, count).tolist()}
    value = full if full > limit else limit
    return refine_by_bisection(cast(Any, scores), selection, Limit(value), context(z_scores))


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


def off(*indices: int) -> Neurons:
    return Neurons({"a": indices})


def test_few_neurons_are_tried_by_falling_z_score() -> None:
    scored = Scored(needing(off(5, 2)))
    found = refine(scored, 0.4, z=[6, 5, 9, 7, 5.5, 8, 5.1], count=7)
    assert found == Refinement(off(2, 5), 0.1, minimal=True)
    # 2 first, then 2 and 5; then 5 and 2 are tested alone, the last of the ranking first
    assert scored.asked == [off(2), off(2, 5), off(2), off(5)]


def test_bisection_lies_between_the_sets_already_tested() -> None:
    """Three of four are needed: two were too few, so three is the only size left to test."""
    scored = Scored(needing(off(0, 1, 2)))
    found = refine(scored, 0.4, count=9)
    assert found.neurons == off(0, 1, 2)
    assert scored.sizes == [1, 2, 4, 3, 2, 2, 2]


def test_after_the_backward_pass_the_search_starts_over_with_its_ranking() -> None:
    """The effects turn the order of the z-scores round, so the one needed neuron comes first."""
    effects = {("a", index): index / 20 for index in range(16)}
    scored = Scored(needing(off(15)), effects)
    found = refine(scored, 0.4, count=16)
    assert found.neurons == off(15)
    assert scored.sizes[:3] == [1, 2, 4]
    assert scored.asked[3:7] == [off(*range(16 - size, 16)) for size in (8, 4, 2, 1)]
    assert scored.asked[7:] == [Neurons()]


class Unbearable(Scored):
    def effects(self, _: Neurons) -> dict[tuple[str, int], float]:
        raise RuntimeError("out of memory")


class Overflowing(Scored):
    def effects(self, off: Neurons) -> dict[tuple[str, int], float]:
        return dict.fromkeys(off, 1.0) | {("a", 0): float("inf")}


@pytest.mark.parametrize("kind", [Unbearable, Overflowing])
def test_without_effects_the_search_resumes_above_the_tested_sizes(kind: type[Scored]) -> None:
    scored = kind(needing(off(*range(6))))
    assert refine(scored, 0.4, count=12).neurons == off(*range(6))
    assert scored.sizes[:6] == [1, 2, 4, 8, 6, 5]


def test_effects_that_are_negative_come_last() -> None:
    effects = {("a", index): -1.0 for index in range(8)} | {("a", 6): 0.5}
    scored = Scored(needing(off(6)), effects)
    refine(scored, 0.4, count=8)
    assert scored.asked[3:6] == [off(6, 0, 1, 2), off(6, 0), off(6)]


def test_removal_goes_round_until_a_whole_round_has_failed() -> None:
    """Neuron 1 can go only once neuron 0 is on again, which is tested after it."""

    def score(gone: Neurons) -> float:
        on = set(range(4)) - {index for _, index in gone}
        if on & {2, 3}:
            return 0.9
        return 0.9 if on == {1} else 0.1

    scored = Scored(score)
    found = refine(scored, 0.5, count=4)
    assert found == Refinement(off(2, 3), 0.1, minimal=True)
    assert scored.asked == [
        off(0),
        off(0, 1),
        off(0, 1, 2),  # bisection: all four are needed from the ranking
        off(0, 1, 2),  # 3 stays
        off(0, 1, 3),  # 2 stays
        off(0, 2, 3),  # 1 stays
        off(1, 2, 3),  # 0 goes
        off(1, 2),  # from the end again: 3 stays
        off(1, 3),  # 2 stays
        off(2, 3),  # 1 goes
        off(2),
        off(3),
    ]


def test_a_score_at_the_limit_is_too_high() -> None:
    scored = Scored(needing(off(0), weight=0.25))
    assert refine(scored, 0.35, count=2).neurons == off(0)
    assert refine(scored, 0.36, count=2).neurons == Neurons()


def test_without_candidates_nothing_is_asked() -> None:
    scored = Scored(lambda _: 0.2)
    assert refine(scored, 0.4, count=0) == Refinement(Neurons(), 0.2, minimal=True)
    assert scored.asked == []


def test_on_a_model_the_guarantee_holds_by_whole_forwards() -> None:
    planted = planted_pipeline()
    noise = NoiseSettings(seeds=4)
    statistics = compute_statistics(
        planted, [*PROMPTS, *(f"{letter} word" for letter in "abcdefghijkl")]
    )
    threshold = one_number(
        calibrate_threshold(planted, PROMPTS, detector="seed-similarity", settings=noise), 0.4
    )
    settings = LocalizationSettings(noise=noise, refinement="bisect", theta=2.0)
    found = localize(
        planted, PLANTED_PROMPT, statistics=statistics, threshold=threshold, settings=settings
    )
    model = Model(planted)
    assert found.detection is not None
    probe = make_probe(model, model.encode([PLANTED_PROMPT]), noise)
    probe = probe.of_seeds(found.detection.memorized_seeds)
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
