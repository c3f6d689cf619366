"""Refinement by group tests: most candidates do nothing, and those that matter answer to the prompt by far the strongest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import isfinite

from unmemorize.localization._evaluator import Evaluator, Limit
from unmemorize.localization._refinement import Refinement
from unmemorize.localization._selection import Selection
from unmemorize.neurons import Neurons

log = logging.getLogger(__name__)

Neuron = tuple[str, int]

_FEW = (1, 2, 4)


def refine_by_bisection(
    evaluator: Evaluator, selection: Selection, limit: Limit, z_scores: Mapping[Neuron, float]
) -> Refinement:
    """Few neurons that keep the score below the limit, none of which can be switched back on alone.

    First only the 1, 2 or 4 neurons of the highest z-scores stay off. Where they are not enough, all are ranked by how fast the score rises
    when each is switched back on, from one backward pass. The fewest of the first neurons that are enough are found by bisection. Then
    one neuron at a time is switched back on, the last of the ranking first, until each that is left has been tested beside all others.
    Where not even all candidates are below the limit (the floor), what is found may be all of them.
    """
    ranked = sorted(selection.neurons, key=lambda neuron: -z_scores[neuron])
    low, high, score = 0, len(ranked), selection.score
    for size in _FEW:
        if (
            size < len(ranked)
            and (found := evaluator.below(Neurons.of(ranked[:size]), limit)) is not None
        ):
            high, score = size, found
            break
        low = min(size, len(ranked) - 1)
    if high > max(_FEW):
        effects = _effects(evaluator, selection.neurons)
        if effects:
            ranked.sort(key=lambda neuron: -effects[neuron])
            low = 0
    while high - low > 1:
        middle = (low + high) // 2
        found = evaluator.below(Neurons.of(ranked[:middle]), limit)
        if found is None:
            low = middle
        else:
            high, score = middle, found
    current, place, needed = ranked[:high], high - 1, 0
    while needed < len(current):
        rest = current[:place] + current[place + 1 :]
        found = evaluator.below(Neurons.of(rest), limit)
        if found is None:
            needed += 1
        else:
            current, score, needed = rest, found, 0
        place = (place or len(current)) - 1
    return Refinement(Neurons.of(current), score, limit.value, minimal=True)


def _effects(evaluator: Evaluator, neurons: Neurons) -> dict[Neuron, float]:
    """The effects, or nothing where the model does not bear a backward pass: they are for speed, the z-scores do as well."""
    try:
        effects = evaluator.effects(neurons)
    except RuntimeError as problem:  # too little memory, or an attention without a backward pass
        log.warning(
            "no backward pass (%s); candidates are ranked by z-score",
            str(problem).split("\n", 1)[0],
        )
        return {}
    return effects if all(map(isfinite, effects.values())) else {}  # half precision overflows
