"""The paper's refinement on made-up scores: which sets are tested, in which order."""

from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch

from scored import Scored, context, needing, selected
from unmemorize import Neurons, NoiseSettings
from unmemorize.localization import Limit
from unmemorize.localization._greedy import refine_greedily
from unmemorize.localization._refinement import Refinement, refinement_limit
from unmemorize.localization._selection import LayerCandidates

CANDIDATES = {
    "down": LayerCandidates((4, 7), (1,)),
    "mid": LayerCandidates((), (9, 2)),
    "up": LayerCandidates((3,), ()),
}


def refine(
    scored: Scored,
    limit: Limit,
    candidates: Mapping[str, LayerCandidates] = CANDIDATES,
    protocol: str = "published",
    **change: Any,
) -> Refinement:
    selection = selected(candidates, 0.0, **change)
    selection = selected(candidates, scored.score(selection.neurons), **change)
    settings = context({}, refinement="greedy", noise=NoiseSettings(protocol=protocol))  # type: ignore[arg-type]
    return refine_greedily(cast(Any, scored), selection, limit, settings)


def test_layers_then_neurons_the_last_layer_first() -> None:
    needed = Neurons({"down": [7], "mid": [9]})
    scored = Scored(needing(needed))
    found = refine(scored, Limit(0.4))
    assert found == Refinement(needed, 0.1, minimal=None)
    everything = {"down": (1, 4, 7), "mid": (2, 9), "up": (3,)}
    assert scored.asked == [
        Neurons({"down": [1, 4, 7], "mid": [2, 9]}),  # layer up goes
        Neurons({"down": [1, 4, 7]}),  # mid stays
        Neurons({"mid": [2, 9]}),  # down stays
        Neurons({"down": [1, 4, 7], "mid": [2]}),  # by falling activation: 9 stays
        Neurons({"down": [1, 4, 7], "mid": [9]}),  # 2 goes
        Neurons({"down": [1, 7], "mid": [9]}),  # above theta, by index: 4 goes
        Neurons({"down": [1], "mid": [9]}),  # 7 stays
        Neurons({"down": [7], "mid": [9]}),  # the most active: 1 goes
    ]
    assert Neurons(everything) not in scored.asked


def test_a_result_is_minimal_if_the_tests_after_the_last_drop_tell() -> None:
    score = needing(Neurons({"mid": [2, 3]}))
    drop_last = {"mid": LayerCandidates((2, 3), (9,))}
    assert refine(Scored(score), Limit(0.4), drop_last).minimal is None
    drop_first = {"mid": LayerCandidates((), (9, 2, 3))}
    assert refine(Scored(score), Limit(0.4), drop_first).minimal is True


def test_a_score_at_the_limit_is_too_high() -> None:
    scored = Scored(needing(Neurons({"down": [7]}), weight=0.25))
    assert refine(scored, Limit(0.35)).neurons == Neurons({"down": [7]})
    assert len(refine(scored, Limit(0.36)).neurons) == 0


def test_the_score_is_that_of_the_last_drop() -> None:
    def score(off: Neurons) -> float:
        return 0.3 - 0.01 * len(off) if ("down", 7) in set(off) else 0.9

    assert refine(Scored(score), Limit(0.5)).score == pytest.approx(0.29)
    unchanged = refine(Scored(lambda off: 1.0 - 0.1 * len(off)), Limit(0.45))
    assert unchanged.neurons == selected(CANDIDATES, 0.0).neurons
    assert unchanged.score == pytest.approx(0.4)


def test_a_neuron_that_stayed_off_is_not_tested_again() -> None:
    """The neuron of layer up can go only once 4 is on, but greedy refinement does not come back."""

    def score(off: Neurons) -> float:
        gone = set(off)
        needed_alone = ("down", 7) not in gone
        needed_together = ("up", 3) not in gone and ("down", 4) in gone
        return 0.9 if needed_alone or needed_together else 0.1

    candidates = {"down": LayerCandidates((4, 7), ()), "up": LayerCandidates((3,), ())}
    found = refine(Scored(score), Limit(0.5), candidates)
    assert found.neurons == Neurons({"down": [7], "up": [3]})
    assert found.minimal is None


DOUBLED = {"mid": LayerCandidates((2, 5), (5, 8))}


def test_a_doubled_neuron_is_tested_once_at_its_second_position() -> None:
    scored = Scored(needing(Neurons({"mid": [8]})))
    assert refine(scored, Limit(0.4), DOUBLED).neurons == Neurons({"mid": [8]})
    assert scored.asked[1:4] == [
        Neurons({"mid": [5, 8]}),  # 2 goes
        Neurons({"mid": [8]}),  # the second copy of 5 goes
        Neurons(),  # 8 stays
    ]


@pytest.mark.parametrize(("protocol", "left"), [("published", [2, 5, 8]), ("paper", [2, 8])])
def test_while_the_score_is_not_below_the_limit_a_doubled_neuron_stays(
    protocol: str, left: list[int]
) -> None:
    """At an exhausted theta the limit is the score of all candidates, which is not below itself.

    The published code drops a copy only if the score is below the limit, so both stay listed.
    """

    def score(off: Neurons) -> float:
        gone = set(off)
        return (
            0.5
            + 0.1 * (("mid", 2) not in gone)
            + 0.1 * (("mid", 8) not in gone)
            - 0.05 * (("mid", 5) not in gone)
        )

    found = refine(Scored(score), Limit(0.5), DOUBLED, protocol, theta_exhausted=True)
    assert found.neurons == Neurons({"mid": left})


def test_a_drop_below_the_limit_frees_later_doubled_neurons() -> None:
    def score(off: Neurons) -> float:
        return 0.5 - 0.1 * (("mid", 2) not in set(off)) + 0.3 * (("mid", 8) not in set(off))

    found = refine(Scored(score), Limit(0.5), DOUBLED, theta_exhausted=True)
    assert found.neurons == Neurons({"mid": [8]})
    earlier = {"mid": LayerCandidates((5,), (5, 2, 8))}
    found = refine(Scored(score), Limit(0.5), earlier, theta_exhausted=True)
    assert found.neurons == Neurons({"mid": [5, 8]})


def test_a_drop_of_a_layer_counts_as_below_the_limit() -> None:
    def score(off: Neurons) -> float:
        return 0.5 - 0.1 * (("up", 1) not in set(off)) + 0.3 * (("mid", 8) not in set(off))

    candidates = {**DOUBLED, "up": LayerCandidates((1,), ())}
    found = refine(Scored(score), Limit(0.5), candidates, theta_exhausted=True)
    assert found.neurons == Neurons({"mid": [8]})


def test_a_relative_limit_lets_doubled_neurons_go() -> None:
    """All candidates off differ from themselves by nothing, so the present set always passes."""
    scored = Scored(needing(Neurons({"mid": [8]})))
    limit = Limit(0.05, reference=torch.tensor([0.1], dtype=torch.float64))
    candidates = {"mid": LayerCandidates((5,), (5, 8))}
    assert refine(scored, limit, candidates).neurons == Neurons({"mid": [8]})


def test_the_limit_of_refinement() -> None:
    scored = Scored(needing(Neurons({"mid": [8]})))
    reached = selected(DOUBLED, 0.21)
    exhausted = selected(DOUBLED, 0.21, theta_exhausted=True)
    assert refinement_limit(cast(Any, scored), reached, 0.4, None) == Limit(0.4, strict=True)
    assert refinement_limit(cast(Any, scored), exhausted, 0.4, None) == Limit(0.21, strict=True)
    relative = refinement_limit(cast(Any, scored), exhausted, 0.4, 0.3)
    assert (relative.value, relative.strict) == (0.3, True)
    assert relative.reference is not None
    assert relative.reference.tolist() == scored.scores(reached.neurons).tolist()
