"""The initial selection: neurons that answer unusually strongly to the prompt.

More and more of them are switched off until the copy is gone. Paper: section 3.2 and algorithm 1.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from unmemorize.localization._criteria import Limit
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._settings import LocalizationSettings
from unmemorize.neurons import Neurons


@dataclass(frozen=True)
class LayerCandidates:
    """The candidates of one layer; a neuron may be in both tuples.

    Args:
        above_theta: those whose z-score is above theta, by index.
        most_active: the k most active ones, by falling activation.
    """

    above_theta: tuple[int, ...]
    most_active: tuple[int, ...]


Candidates = Mapping[str, LayerCandidates]


@dataclass(frozen=True)
class Selection:
    """The result of the initial selection.

    Args:
        candidates: by layer, in the order of the layers.
        score: the score with all candidates off.
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
    """Return the candidates of every layer for one theta and k.

    Args:
        z_scores: layer -> (features,), see `Statistics.z_scores`.
        activation: layer -> (features,).
        theta: neurons whose z-score is greater are candidates. Infinity selects none.
        top_k: the k most active neurons of each layer are candidates, too.

    Examples:
        >>> layer = {"a": torch.tensor([1.0, 5.0, 3.0])}
        >>> candidates_at(layer, layer, theta=3.0, top_k=2)
        {'a': LayerCandidates(above_theta=(1,), most_active=(1, 2))}
    """
    return {
        path: LayerCandidates(
            tuple(torch.nonzero(scores > theta).flatten().tolist()),
            tuple(torch.topk(activation[path], min(top_k, len(scores))).indices.tolist()),
        )
        for path, scores in z_scores.items()
    }


def neurons_of(candidates: Candidates) -> Neurons:
    """Return candidates as a set of neurons."""
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
    """Lower theta and raise k until the score with all candidates off is at most ``tau``.

    The selection also ends when theta or k is exhausted, see `last_step`.

    Args:
        evaluator: scores the candidates.
        z_scores: layer -> (features,).
        activation: layer -> (features,).
        tau: the threshold.
        settings: where theta and k start and how they change.
    """
    limit = Limit(tau, strict=False)

    def candidates(step: int) -> dict[str, LayerCandidates]:
        theta = _theta(step, settings) if settings.use_theta else math.inf
        top_k = settings.top_k + step if settings.use_top_k else 0
        return candidates_at(z_scores, activation, theta, top_k)

    def passes(step: int) -> bool:
        return evaluator.below(neurons_of(candidates(step)), limit) is not None

    def seems_to_pass(step: int) -> bool:
        return evaluator.seems_below(neurons_of(candidates(step)), limit)

    last = last_step(max(map(len, z_scores.values())), settings)
    if settings.refinement == "greedy" or settings.criterion == "unblocked":
        step = _first_passing_step(passes, last)
    elif settings.refinement == "bisect":
        step = _first_passing_step_by_bisection(passes, last)
    else:
        step = _first_passing_step_by_bisection(seems_to_pass, last)
        while step < last and not passes(step):  # later screens know by how much this one erred
            step = _first_passing_step_by_bisection(seems_to_pass, last, start=step + 1)
    chosen = candidates(step)
    return Selection(
        chosen,
        evaluator.score(neurons_of(chosen)),
        _theta(step, settings),
        settings.top_k + step,
        theta_exhausted=not passes(step),
    )


def last_step(widest: int, settings: LocalizationSettings) -> int:
    """Return the last step, counted from 0, before theta or k is exhausted.

    The published code leaves its loop on reaching theta's floor or the width of the widest layer.
    The paper's text evaluates these values, too. The protocol decides.

    Args:
        widest: the number of neurons of the widest layer.
        settings: where theta and k start, and which of them are used.

    Examples:
        >>> last_step(320, LocalizationSettings())  # theta = 5, 4.75, ... 1.25
        15
    """
    return next(step for step in count() if _is_exhausted(step + 1, widest, settings))


def _is_exhausted(step: int, widest: int, settings: LocalizationSettings) -> bool:
    theta, top_k = _theta(step, settings), settings.top_k + step
    if settings.noise.protocol == "published":
        theta_is_over, k_is_over = theta <= settings.theta_floor, top_k >= widest
    else:
        theta_is_over, k_is_over = theta < settings.theta_floor, top_k > widest
    return (settings.use_theta and theta_is_over) or (settings.use_top_k and k_is_over)


def _theta(step: int, settings: LocalizationSettings) -> float:
    return settings.theta - step * settings.theta_step


def _first_passing_step(passes: Callable[[int], bool], last: int) -> int:
    """Return the first step that passes, or the last one, trying them one by one.

    This is the paper's sequence to the letter. It is also cheap under the criterion "unblocked",
    where a step that fails costs one seed of many.
    """
    return next(filter(passes, range(last)), last)


def _first_passing_step_by_bisection(
    passes: Callable[[int], bool], last: int, start: int = 0
) -> int:
    """Return the first step from ``start`` on that passes, or the last one.

    It is the first if every step after a passing one passes. In any case the step before the
    returned one has been seen to fail.
    """
    if passes(start):
        return start
    if not passes(last):
        return last
    return bisect_left(range(start + 1, last), True, key=passes) + start + 1
