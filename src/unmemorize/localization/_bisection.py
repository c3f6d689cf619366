"""Refinement by bisection: test groups of candidates instead of single ones.

Most candidates do nothing, and the few that matter answer to the prompt by far the strongest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from unmemorize.localization._criteria import Limit
from unmemorize.localization._effects import Neuron
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._refinement import Refinement, RefinementContext
from unmemorize.localization._selection import Selection
from unmemorize.neurons import Neurons

log = logging.getLogger(__name__)

_FEW = (1, 2, 4)
"""Sizes that are tried before a backward pass is worth its cost."""


@dataclass(frozen=True)
class _Bracket:
    """A ranking of candidates, and how many of the first ones must stay off.

    Args:
        ranked: the candidates, the most important one first.
        too_few: this many are not enough.
        enough: this many are enough, or they are all.
        score: the score with the first ``enough`` off.
    """

    ranked: tuple[Neuron, ...]
    too_few: int
    enough: int
    score: float


def refine_by_bisection(
    evaluator: Evaluator, selection: Selection, limit: Limit, context: RefinementContext
) -> Refinement:
    """Find few neurons with which the score is below the limit, none of which can be dropped alone.

    1. Only the 1, 2 or 4 neurons of the highest z-scores stay off, if that is enough.
    2. Otherwise all candidates are ranked by how fast the score rises when each is switched back
       on, from one backward pass.
    3. Bisection finds the fewest of the first neurons that are enough.
    4. One neuron at a time is switched back on, the last of the ranking first, until each of those
       left has been tested with all others off.

    If not even all candidates bring the score below the limit (theta was exhausted), all of them
    may be left.
    """
    z_scores = context.z_scores
    by_z_score = sorted(
        selection.neurons, key=lambda neuron: -float(z_scores[neuron[0]][neuron[1]])
    )
    bracket = _Bracket(tuple(by_z_score), 0, len(by_z_score), selection.score)
    bracket = _try_few(evaluator, limit, bracket)
    if bracket.enough > max(_FEW):
        bracket = _rank_by_effects(evaluator, selection.neurons, bracket)
    bracket = _bisect(evaluator, limit, bracket)
    return _remove_one_by_one(evaluator, limit, bracket)


def _try_few(evaluator: Evaluator, limit: Limit, bracket: _Bracket) -> _Bracket:
    for size in _FEW:
        if size < bracket.enough:
            bracket = _tested(evaluator, limit, bracket, size)
    return bracket


def _rank_by_effects(evaluator: Evaluator, neurons: Neurons, bracket: _Bracket) -> _Bracket:
    """Rank by effects, or leave the ranking by z-scores if there is no usable backward pass.

    The ranking only saves tests, so a failing backward pass must not end the localization.
    """
    try:
        effects = evaluator.effects(neurons)
    except RuntimeError as problem:  # too little memory, or an attention without a backward pass
        reason = str(problem).split("\n", 1)[0]
        log.warning("no backward pass (%s); candidates are ranked by z-score", reason)
        return bracket
    if not all(map(isfinite, effects.values())):  # half precision overflows
        return bracket
    ranked = sorted(bracket.ranked, key=lambda neuron: -effects[neuron])
    return _Bracket(tuple(ranked), 0, bracket.enough, bracket.score)


def _bisect(evaluator: Evaluator, limit: Limit, bracket: _Bracket) -> _Bracket:
    while bracket.enough - bracket.too_few > 1:
        middle = (bracket.too_few + bracket.enough) // 2
        bracket = _tested(evaluator, limit, bracket, middle)
    return bracket


def _tested(evaluator: Evaluator, limit: Limit, bracket: _Bracket, size: int) -> _Bracket:
    """Test the first ``size`` neurons and narrow the bracket accordingly."""
    score = evaluator.below(Neurons.of(bracket.ranked[:size]), limit)
    if score is None:
        return _Bracket(bracket.ranked, size, bracket.enough, bracket.score)
    return _Bracket(bracket.ranked, bracket.too_few, size, score)


def _remove_one_by_one(evaluator: Evaluator, limit: Limit, bracket: _Bracket) -> Refinement:
    """Switch single neurons back on until a whole round of tests has failed."""
    current: Sequence[Neuron] = bracket.ranked[: bracket.enough]
    score = bracket.score
    position = len(current) - 1
    failed_in_a_row = 0
    while failed_in_a_row < len(current):
        rest = [*current[:position], *current[position + 1 :]]
        score_of_rest = evaluator.below(Neurons.of(rest), limit)
        if score_of_rest is None:
            failed_in_a_row += 1
        else:
            current = rest
            score = score_of_rest
            failed_in_a_row = 0
        position = (position or len(current)) - 1  # after the first neuron, the last one again
    return Refinement(Neurons.of(current), score, minimal=True)
