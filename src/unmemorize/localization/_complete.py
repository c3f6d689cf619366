"""Complete refinement: keep every candidate that carries memory, drop those that do nothing.

Memory is redundant: a few of its neurons often suffice to bring the score of the first denoising
step down, and the copy returns over the full generation. So candidates are judged by what they do
to the prediction, not by the score.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from math import log as logarithm
from random import Random

import torch
from torch import Tensor

from unmemorize.localization._criteria import Limit
from unmemorize.localization._effects import Neuron
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._group_tests import measure_by_halving
from unmemorize.localization._prediction_changes import PredictionChanges
from unmemorize.localization._records import Effects
from unmemorize.localization._refinement import Refinement, RefinementContext
from unmemorize.localization._selection import Selection
from unmemorize.neurons import Neurons

log = logging.getLogger(__name__)

_QUANTILE = 0.95
"""Share of the ordinary neurons that change the prediction less than the noise level."""
_FEW = 8
"""Up to this many candidates, measuring the doubtful ones is cheaper than better estimates."""
_PROJECTIONS_FOR_FEW, _PROJECTIONS_FOR_MANY = 1, 2
_CHECKS = 2
"""Estimates that a forward pass replaces at the most, where candidates are few."""
_NEAR = 1.5
"""Factor from the noise level within which an estimate may be on the wrong side of it."""
_ORDINARY = 24
"""Ordinary neurons that are measured for the noise level where there are no estimates."""

Changes = Mapping[Neuron, float]
"""Neuron -> how much it changes the prediction when it alone is switched."""


def refine_completely(
    evaluator: Evaluator, selection: Selection, _limit: Limit, _context: RefinementContext
) -> Refinement:
    """Keep each candidate that changes the prediction more than ordinary neurons do.

    A candidate stays off if the prediction changes more than the noise level when it alone is
    switched on while all others are off, or when it alone is switched off. Both are estimated for
    all neurons of the searched layers at once, by backward passes from random projections of the
    prediction. The noise level is a quantile of what the neurons that are no candidates do when
    each is switched off alone. Where candidates are few, those near the level are measured by
    forward passes. Without a usable backward pass, candidates are measured in groups.

    A single candidate that brought the score down needs no test.
    """
    candidates = selection.neurons
    if not candidates or (len(candidates) == 1 and not selection.theta_exhausted):
        return Refinement(candidates, selection.score, minimal=None)
    estimates = _estimate(evaluator.changes, candidates)
    if estimates is None:
        level, by_neuron = _measure(evaluator.changes, candidates)
    else:
        level, by_neuron = _judge(evaluator.changes, candidates, *estimates)
    neurons = Neurons.of(neuron for neuron in candidates if by_neuron[neuron] > level)
    effects = Effects(
        "forward" if estimates is None else "backward",
        level,
        {
            path: tuple(by_neuron[path, index] for index in indices)
            for path, indices in neurons.layers.items()
        },
    )
    return Refinement(neurons, evaluator.score(neurons), minimal=None, effects=effects)


def _estimate(changes: PredictionChanges, candidates: Neurons) -> tuple[Changes, Changes] | None:
    """Estimate the changes by all neurons with all candidates off, and with nothing off.

    Returns:
        None if there is no usable backward pass.
    """
    few = len(candidates) <= _FEW
    projections = _PROJECTIONS_FOR_FEW if few else _PROJECTIONS_FOR_MANY
    try:
        alone_on = changes.estimate(candidates, projections)
        alone_off = changes.estimate(Neurons(), projections)
    except RuntimeError as problem:  # too little memory, or an attention without a backward pass
        reason = str(problem).split("\n", 1)[0]
        log.warning("no backward pass (%s); candidates are measured in groups", reason)
        return None
    if not all(map(_is_finite, [*alone_on.values(), *alone_off.values()])):
        log.warning("a backward pass overflows; candidates are measured in groups")
        return None
    return _by_neuron(alone_on), _by_neuron(alone_off)


def _judge(
    changes: PredictionChanges, candidates: Neurons, alone_on: Changes, alone_off: Changes
) -> tuple[float, Changes]:
    """Return the noise level and the larger change by each candidate, near the level measured."""
    level = _quantile(alone_off[neuron] for neuron in alone_off.keys() - set(candidates))
    by_neuron = {neuron: max(alone_on[neuron], alone_off[neuron]) for neuron in candidates}
    if len(candidates) > _FEW:
        return level, by_neuron
    near = [neuron for neuron in candidates if level / _NEAR < by_neuron[neuron] < level * _NEAR]
    near.sort(key=lambda neuron: abs(logarithm(by_neuron[neuron] / level)))
    for neuron in near[:_CHECKS]:
        single = Neurons.of([neuron])
        if alone_on[neuron] > alone_off[neuron]:
            measured = changes.measure(candidates, candidates - single)
            by_neuron[neuron] = max(measured, alone_off[neuron])
        else:
            measured = changes.measure(Neurons(), single)
            by_neuron[neuron] = max(measured, alone_on[neuron])
    return level, by_neuron


def _measure(changes: PredictionChanges, candidates: Neurons) -> tuple[float, Changes]:
    """Measure the noise level, and the change by each candidate alone on, in groups of a layer."""
    ordinary = [
        (path, index)
        for path, width in changes.widths.items()
        for index in range(width)
        if index not in candidates.layers.get(path, ())
    ]
    chosen = Random(0).sample(ordinary, min(_ORDINARY, len(ordinary)))
    level = _quantile(changes.measure(Neurons(), Neurons.of([neuron])) for neuron in chosen)

    def change(group: Iterable[Neuron]) -> float:
        return changes.measure(candidates, candidates - Neurons.of(group))

    by_neuron: dict[Neuron, float] = {}
    for path, indices in candidates.layers.items():
        by_neuron |= measure_by_halving([(path, index) for index in indices], change, level)
    return level, by_neuron


def _quantile(changes: Iterable[float]) -> float:
    """Return the noise level of ordinary neurons; 0 if there are none to compare with."""
    values = torch.tensor(sorted(changes), dtype=torch.float32)
    return float(values.quantile(_QUANTILE)) if len(values) else 0.0


def _by_neuron(values: Mapping[str, Tensor]) -> Changes:
    return {
        (path, index): change
        for path, changes in values.items()
        for index, change in enumerate(changes.tolist())
    }


def _is_finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())
