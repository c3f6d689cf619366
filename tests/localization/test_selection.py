from typing import Any, cast

import pytest
import torch

from unmemorize import LocalizationSettings, Neurons
from unmemorize.localization import Evaluator, Limit
from unmemorize.localization._selection import select


class Scored:
    """In place of an evaluator: the score falls with the number of neurons off, from 1 with none to 0 with ``enough``."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.asked: list[int] = []

    def below(self, neurons: Neurons, limit: Limit) -> float | None:
        self.asked.append(len(neurons))
        score = max(0.0, 1 - len(neurons) / self.enough)
        return None if score > limit.value else score

    def score(self, neurons: Neurons) -> float:
        return max(0.0, 1 - len(neurons) / self.enough)


Z_SCORES = {"layer": torch.linspace(0, 6, 61)}
ACTIVATION = {"layer": torch.linspace(0, 1, 61)}


def selected(enough: int, **change: Any) -> tuple[Any, Scored]:
    scored = Scored(enough)
    settings = LocalizationSettings(**{"criterion": "seeds", **change})
    return select(cast(Evaluator, scored), Z_SCORES, ACTIVATION, 0.3, settings), scored


@pytest.mark.parametrize("enough", [1, 9, 15, 16, 30, 40, 50, 65, 67, 70, 1000])
@pytest.mark.parametrize("change", [{}, {"use_theta": False}, {"use_top_k": False}, {"top_k": 3}])
def test_bisection_ends_at_the_same_step_as_one_by_one(enough: int, change: dict[str, Any]) -> None:
    stepwise, slow = selected(enough, refinement="greedy", **change)
    bisected, quick = selected(enough, **change)
    assert bisected == stepwise
    if not stepwise.theta_exhausted and stepwise.theta < 3:
        assert len(set(quick.asked)) < len(set(slow.asked))


def test_the_floor_takes_two_tests() -> None:
    found, scored = selected(1000)
    assert found.theta_exhausted
    assert found.theta == 1.25
    assert len(set(scored.asked)) == 2


def test_by_the_papers_criterion_steps_are_tried_one_by_one() -> None:
    _, bisected = selected(40, criterion="unblocked")
    _, stepwise = selected(40, refinement="greedy")
    assert bisected.asked == stepwise.asked
