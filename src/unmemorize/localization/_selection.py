"""The initial selection: neurons that answer unusually strongly to the prompt, more and more of them until the copy is gone.

Paper: section 3.2 and algorithm 1.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from unmemorize.localization._evaluator import Evaluator, Limit
from unmemorize.localization._settings import LocalizationSettings
from unmemorize.neurons import Neurons


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
        theta_exhausted: whether theta or k ran out before the score fell to the threshold.
    """

    candidates: Candidates
    score: float
    theta: float
    top_k: int
    theta_exhausted: bool

    @property
    def neurons(self) -> Neurons:
        """All candidates as a set."""
        return neurons_of(self.candidates)


def candidates_at(
    z_scores: Mapping[str, Tensor], activation: Mapping[str, Tensor], theta: float, top_k: int
) -> dict[str, LayerCandidates]:
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
    return Neurons(
        {path: {*layer.above_theta, *layer.most_active} for path, layer in candidates.items()}
    )


def select(
    evaluator: Evaluator,
    z_scores: Mapping[str, Tensor],
    activation: Mapping[str, Tensor],
    tau: float,
    settings: LocalizationSettings,
) -> Selection:
    """Lower theta and raise k until the score with all candidates off is at most ``tau``, or nothing is left to lower.

    The published code leaves the loop on *reaching* theta's floor or the width of the widest layer, the paper's text evaluates them; the
    protocol decides. Steps are tried one by one under the criterion "unblocked", where a step that fails costs one seed of many, and for
    greedy refinement, which is the paper's sequence to the letter. Else the first step that passes is found by bisection, which takes it
    that all later ones pass, too; the step before it is always seen to fail.
    """
    limit = Limit(tau, strict=False)

    def candidates(step: int) -> dict[str, LayerCandidates]:
        theta, top_k = (
            _theta(step, settings) if settings.use_theta else math.inf,
            settings.top_k + step if settings.use_top_k else 0,
        )
        return candidates_at(z_scores, activation, theta, top_k)

    def passes(step: int) -> bool:
        return evaluator.below(neurons_of(candidates(step)), limit) is not None

    widest = max(map(len, z_scores.values()))
    last = next(step for step in count() if _is_last(step, widest, settings))
    if settings.refinement == "greedy" or settings.criterion == "unblocked":
        step = next(filter(passes, range(last)), last)
    elif passes(0):
        step = 0
    elif not passes(last):
        step = last
    else:
        step = bisect_left(range(1, last), True, key=passes) + 1
    chosen = candidates(step)
    score = evaluator.score(neurons_of(chosen))
    return Selection(
        chosen,
        score,
        _theta(step, settings),
        settings.top_k + step,
        theta_exhausted=not passes(step),
    )


def _theta(step: int, settings: LocalizationSettings) -> float:
    return settings.theta - step * settings.theta_step


def _is_last(step: int, widest: int, settings: LocalizationSettings) -> bool:
    theta, top_k = _theta(step + 1, settings), settings.top_k + step + 1
    if settings.noise.protocol == "published":
        return (settings.use_theta and theta <= settings.theta_floor) or (
            settings.use_top_k and top_k >= widest
        )
    return (settings.use_theta and theta < settings.theta_floor) or (
        settings.use_top_k and top_k > widest
    )
