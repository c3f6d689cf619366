"""The initial selection: neurons that answer unusually strongly to the prompt, more and more of them until the copy is gone.

Paper: section 3.2 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unmemorize._neurons import Neurons
from unmemorize.localization._evaluator import Evaluator, Limit
from unmemorize.localization._settings import LocalizationSettings


@dataclass(frozen=True)
class LayerCandidates:
    """Candidates of one layer: those above theta by index, and the most active ones by falling activation; a neuron may be in both."""

    above_theta: tuple[int, ...]
    most_active: tuple[int, ...]


Candidates = Mapping[str, LayerCandidates]


@dataclass(frozen=True)
class Selection:
    """What the initial selection ended with.

    Args:
        candidates: by layer, in the order of the layers.
        score: with all candidates off.
        theta: the last theta.
        top_k: the last k.
        floor: whether theta or k ran out before the score fell to the threshold.
    """

    candidates: Candidates
    score: float
    theta: float
    top_k: int
    floor: bool

    @property
    def neurons(self) -> Neurons:
        """All candidates as a set."""
        return neurons_of(self.candidates)


def candidates_at(z_scores: Mapping[str, Tensor], activation: Mapping[str, Tensor], theta: float, top_k: int) -> dict[str, LayerCandidates]:
    """The candidates of every layer for one theta and k.

    Args:
        z_scores: layer -> (features,), see `Statistics.z_scores`.
        activation: layer -> (features,).
        theta: neurons whose z-score is greater are candidates; none are for infinity.
        top_k: so are the k most active of each layer.
    """
    return {
        path: LayerCandidates(
            tuple(torch.nonzero(scores > theta).flatten().tolist()),
            tuple(torch.topk(activation[path], min(top_k, len(scores))).indices.tolist()),
        )
        for path, scores in z_scores.items()
    }


def neurons_of(candidates: Candidates) -> Neurons:
    """Candidates as a set of neurons."""
    return Neurons({path: {*layer.above_theta, *layer.most_active} for path, layer in candidates.items()})


def select(
    evaluator: Evaluator, z_scores: Mapping[str, Tensor], activation: Mapping[str, Tensor], tau: float, settings: LocalizationSettings
) -> Selection:
    """Lower theta and raise k until the score with all candidates off is at most ``tau``, or nothing is left to lower.

    The published code leaves the loop on *reaching* theta's floor or the width of the widest layer, the paper's text evaluates them; the
    protocol decides.
    """
    widest = max(len(scores) for scores in z_scores.values())
    limit = Limit(tau, strict=False)
    step = 0
    while True:
        theta, top_k = _theta(step, settings), settings.top_k + step
        candidates = candidates_at(z_scores, activation, theta if settings.use_theta else math.inf, top_k if settings.use_top_k else 0)
        score = evaluator.below(neurons_of(candidates), limit)
        if score is not None:
            return Selection(candidates, score, theta, top_k, floor=False)
        if _is_last(step, widest, settings):
            return Selection(candidates, evaluator.score(neurons_of(candidates)), theta, top_k, floor=True)
        step += 1


def _theta(step: int, settings: LocalizationSettings) -> float:
    return settings.theta - step * settings.theta_step


def _is_last(step: int, widest: int, settings: LocalizationSettings) -> bool:
    theta, top_k = _theta(step + 1, settings), settings.top_k + step + 1
    if settings.noise.protocol == "upstream":
        return (settings.use_theta and theta <= settings.theta_floor) or (settings.use_top_k and top_k >= widest)
    return (settings.use_theta and theta < settings.theta_floor) or (settings.use_top_k and top_k > widest)
