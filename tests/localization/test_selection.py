"""The initial selection on made-up scores: its steps, where it ends, and what it selects."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from scored import Scored
from unmemorize import LocalizationSettings, Neurons, NoiseSettings
from unmemorize.localization import Limit
from unmemorize.localization._selection import (
    LayerCandidates,
    Selection,
    candidates_at,
    last_step,
    neurons_of,
    select,
)

Z_SCORES = {"layer": torch.linspace(0, 6, 61)}
ACTIVATION = {"layer": torch.linspace(0, 1, 61)}
PUBLISHED, PAPER = NoiseSettings(protocol="published"), NoiseSettings(protocol="paper")


def by_number(enough: int) -> Scored:
    """The score falls with the number of neurons off, from 1 with none to 0 with ``enough``."""
    return Scored(lambda off: max(0.0, 1 - len(off) / enough))


def selection_by(scored: Scored, tau: float = 0.3, **change: Any) -> Selection:
    settings = LocalizationSettings(**{"criterion": "seeds", "refinement": "bisect", **change})
    return select(cast(Any, scored), Z_SCORES, ACTIVATION, tau, settings)


def select_by_number(enough: int, **change: Any) -> tuple[Selection, Scored]:
    scored = by_number(enough)
    return selection_by(scored, **change), scored


@pytest.mark.parametrize("enough", [1, 9, 15, 16, 30, 40, 50, 65, 67, 70, 1000])
@pytest.mark.parametrize("change", [{}, {"use_theta": False}, {"use_top_k": False}, {"top_k": 3}])
def test_bisection_ends_at_the_same_step_as_one_by_one(enough: int, change: dict[str, Any]) -> None:
    stepwise, slow = select_by_number(enough, refinement="greedy", **change)
    bisected, quick = select_by_number(enough, **change)
    assert bisected == stepwise
    if not stepwise.theta_exhausted and stepwise.theta < 3:
        assert len(set(quick.sizes)) < len(set(slow.sizes))


def test_the_floor_takes_two_tests() -> None:
    found, scored = select_by_number(1000)
    assert found.theta_exhausted
    assert found.theta == 1.25
    assert len(set(scored.sizes)) == 2


def test_by_the_papers_criterion_steps_are_tried_one_by_one() -> None:
    _, bisected = select_by_number(40, criterion="unblocked")
    _, stepwise = select_by_number(40, refinement="greedy")
    assert bisected.asked == stepwise.asked


def test_theta_falls_and_k_grows_at_each_step() -> None:
    """The most active neurons are others than those of high z-scores."""
    scored = Scored(lambda off: 0.9)
    settings = LocalizationSettings(refinement="greedy", theta_floor=4.25)
    falling = {"layer": ACTIVATION["layer"].flip(0)}
    found = select(cast(Any, scored), Z_SCORES, falling, 0.3, settings)
    steps = [
        Neurons({"layer": range(51, 61)}),  # theta = 5
        Neurons({"layer": [*range(48, 61), 0]}),  # theta = 4.75, k = 1
        Neurons({"layer": [*range(46, 61), 0, 1]}),  # theta = 4.5, k = 2
    ]
    assert list(dict.fromkeys(scored.asked)) == steps
    assert (found.theta, found.top_k, found.theta_exhausted) == (4.5, 2, True)
    assert found.neurons == steps[-1]
    assert found.candidates["layer"] == LayerCandidates(tuple(range(46, 61)), (0, 1))


def test_a_score_at_the_threshold_ends_the_selection() -> None:
    scored = Scored(lambda off: 0.3 if len(off) >= 13 else 0.31)
    found = selection_by(scored, refinement="greedy")
    assert (found.theta, found.score, found.theta_exhausted) == (4.75, 0.3, False)
    scored = Scored(lambda off: 0.31)
    assert selection_by(scored, refinement="greedy").theta_exhausted


@pytest.mark.parametrize("refinement", ["greedy", "bisect"])
def test_the_last_step_may_pass(refinement: str) -> None:
    widest = len(Neurons({"layer": range(48, 61)})) + 35
    scored = Scored(lambda off: 0.2 if len(off) >= widest else 0.9)
    found = selection_by(scored, refinement=refinement)
    assert (found.theta, found.top_k, found.theta_exhausted) == (1.25, 15, False)


@pytest.mark.parametrize("first", range(16))
def test_the_step_before_the_first_that_passes_is_seen_to_fail(first: int) -> None:
    sizes = [
        len(neurons_of(candidates_at(Z_SCORES, ACTIVATION, 5 - 0.25 * step, step)))
        for step in range(16)
    ]
    scored = Scored(lambda off: 0.2 if len(off) >= sizes[first] else 0.9)
    found = selection_by(scored)
    assert (found.theta, found.top_k) == (5 - 0.25 * first, first)
    assert not first or sizes[first - 1] in scored.sizes


@pytest.mark.parametrize(
    ("noise", "change", "widest", "last"),
    [
        (PUBLISHED, {}, 320, 15),  # theta 1.25
        (PAPER, {}, 320, 16),  # theta 1
        (PUBLISHED, {"theta_floor": 0.9}, 320, 16),
        (PAPER, {"theta_floor": 1.1}, 320, 15),
        (PUBLISHED, {}, 8, 7),  # k = 7
        (PAPER, {}, 8, 8),  # k = 8
        (PUBLISHED, {"top_k": 3}, 8, 4),
        (PAPER, {"top_k": 3}, 8, 5),
        (PUBLISHED, {"use_theta": False}, 320, 319),
        (PAPER, {"use_theta": False}, 320, 320),
        (PUBLISHED, {"use_top_k": False}, 8, 15),
        (PAPER, {"use_top_k": False}, 8, 16),
        (PUBLISHED, {"theta": 2.0, "theta_step": 0.5}, 320, 1),
        (PAPER, {"theta": 2.0, "theta_step": 0.5}, 320, 2),
        (PUBLISHED, {"theta": 1.25}, 320, 0),
    ],
)
def test_where_the_loop_ends(
    noise: NoiseSettings, change: dict[str, Any], widest: int, last: int
) -> None:
    assert last_step(widest, LocalizationSettings(noise=noise, **change)) == last


def test_the_widest_layer_ends_the_selection() -> None:
    z_scores = {"narrow": torch.zeros(2), "wide": torch.zeros(5)}
    scored = Scored(lambda off: 0.9)
    settings = LocalizationSettings(
        noise=PAPER, criterion="seeds", refinement="bisect", use_theta=False
    )
    found = select(cast(Any, scored), z_scores, z_scores, 0.3, settings)
    assert found.neurons == Neurons({"narrow": range(2), "wide": range(5)})
    settings = replace(settings, noise=PUBLISHED)
    found = select(cast(Any, scored), z_scores, z_scores, 0.3, settings)
    assert (len(found.neurons), found.top_k) == (6, 4)


def test_candidates_of_several_layers() -> None:
    z_scores = {"b": torch.tensor([1.0, 7.0, 5.0, 6.0]), "a": torch.tensor([9.0, 0.0])}
    activation = {"b": torch.tensor([4.0, 1.0, 9.0, 5.0]), "a": torch.tensor([0.0, 1.0])}
    found = candidates_at(z_scores, activation, 5.0, 3)
    assert list(found) == ["b", "a"]
    assert found["b"] == LayerCandidates((1, 3), (2, 3, 0))
    assert found["a"] == LayerCandidates((0,), (1, 0))
    assert neurons_of(found) == Neurons({"b": range(4), "a": range(2)})
    assert candidates_at(z_scores, activation, float("inf"), 0)["b"] == LayerCandidates((), ())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Neurons({"layer": range(51, 61)})),
        ({"top_k": 12}, Neurons({"layer": range(49, 61)})),
        ({"use_theta": False, "top_k": 2}, Neurons({"layer": [59, 60]})),
        ({"use_top_k": False, "top_k": 12}, Neurons({"layer": range(51, 61)})),
    ],
)
def test_ablations_select_in_one_way_only(change: dict[str, Any], expected: Neurons) -> None:
    scored = Scored(lambda off: 0.1)
    assert selection_by(scored, **change).neurons == expected


def test_without_top_k_the_most_active_neuron_is_no_candidate() -> None:
    settings = LocalizationSettings(criterion="seeds", refinement="bisect", use_top_k=False)
    other_order = {"layer": torch.linspace(1, 0, 61)}
    selection = select(cast(Any, by_number(9)), Z_SCORES, other_order, 0.3, settings)
    assert ("layer", 0) not in set(selection.neurons)
    assert ("layer", 60) in set(selection.neurons)


@pytest.mark.parametrize(("passing", "wrong_up_to"), [(3, 3), (4, 3), (6, 5), (15, 9), (99, 9)])
def test_a_screened_step_that_fails_is_followed_by_later_ones(
    passing: int, wrong_up_to: int
) -> None:
    """The screen takes steps from 3 on for passing until a test has shown a later one to fail."""
    sizes = [
        len(neurons_of(candidates_at(Z_SCORES, ACTIVATION, 5 - 0.25 * step, step)))
        for step in range(16)
    ]
    enough = sizes[passing] if passing < 16 else 1000
    tested: list[int] = []

    class Screened(Scored):
        def below(self, off: Neurons, limit: Limit) -> float | None:
            tested.append(sizes.index(len(off)))
            return super().below(off, limit)

        def seems_below(self, off: Neurons, limit: Limit) -> bool:
            knows_better = max(tested, default=0) >= wrong_up_to
            return len(off) >= (enough if knows_better else sizes[3])

    found = selection_by(
        Screened(lambda off: 0.2 if len(off) >= enough else 0.9), refinement="complete"
    )
    assert (found.top_k, found.theta_exhausted) == (min(passing, 15), passing > 15)
    assert len(found.neurons) == sizes[found.top_k]
    assert set(tested) == {*range(3, min(wrong_up_to, passing) + 1), found.top_k}
