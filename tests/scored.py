"""Evaluators whose scores are made up, so that every set of neurons can be looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unmemorize import LocalizationSettings, Neurons
from unmemorize.localization import Limit
from unmemorize.localization._refinement import RefinementContext
from unmemorize.localization._selection import LayerCandidates, Selection

Neuron = tuple[str, int]


@dataclass
class Scored:
    """An evaluator with a function for the score; it notes what it is asked.

    Args:
        score_of: the score with these neurons off.
        effect_of: neuron -> effect.
    """

    score_of: Callable[[Neurons], float]
    effect_of: Mapping[Neuron, float] = field(default_factory=dict)
    asked: list[Neurons] = field(default_factory=list)

    def score(self, off: Neurons) -> float:
        return self.score_of(off)

    def scores(self, off: Neurons) -> Tensor:
        return torch.tensor([self.score_of(off)])

    def below(self, off: Neurons, limit: Limit) -> float | None:
        self.asked.append(off)
        return self.score_of(off) if self.known_below(off, limit) else None

    def known_below(self, off: Neurons, limit: Limit) -> bool | None:
        if off not in self.asked:
            return None
        score = torch.tensor([self.score_of(off)], dtype=torch.float64)
        return not bool(limit.exceeded(score, [0]))

    def seems_below(self, off: Neurons, limit: Limit) -> bool:
        return self.below(off, limit) is not None

    def effects(self, off: Neurons) -> dict[Neuron, float]:
        return {neuron: self.effect_of[neuron] for neuron in off}

    @property
    def sizes(self) -> list[int]:
        """How many neurons were off in each test."""
        return [len(off) for off in self.asked]


def needing(needed: Neurons, weight: float = 0.3) -> Callable[[Neurons], float]:
    """A score of .1 that rises by ``weight`` for each needed neuron that is on."""

    def score(off: Neurons) -> float:
        return 0.1 + weight * len(needed - off)

    return score


def selected(candidates: Mapping[str, LayerCandidates], score: float, **change: Any) -> Selection:
    values = {"theta": 5.0, "top_k": 0, "theta_exhausted": False, **change}
    return Selection(candidates, score, **values)


def context(z_scores: Mapping[str, Sequence[float]], **settings: Any) -> RefinementContext:
    tensors = {layer: torch.tensor(values) for layer, values in z_scores.items()}
    return RefinementContext(LocalizationSettings(**settings), tensors)
