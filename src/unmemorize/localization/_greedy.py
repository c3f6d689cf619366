"""Greedy refinement: switch candidates back on, layer by layer and then neuron by neuron.

Paper: section 3.2, second part, and algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from unmemorize.detection import Protocol
from unmemorize.localization._criteria import Limit
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._refinement import Refinement, RefinementContext
from unmemorize.localization._selection import LayerCandidates, Selection
from unmemorize.neurons import Neurons


@dataclass(frozen=True)
class _Off:
    """The neurons that are off, their score, and whether it is known to be below the limit."""

    neurons: Neurons
    score: float
    below: bool


def refine_greedily(
    evaluator: Evaluator, selection: Selection, limit: Limit, context: RefinementContext
) -> Refinement:
    """Switch candidates back on unless that brings the score to the limit (the paper's refinement).

    Whole layers are tested first, then each neuron of the remaining layers; the last layer of the
    model comes first in both. These tests may happen to tell that the result is minimal.
    """
    start = _Off(
        selection.neurons,
        selection.score,
        below=limit.reference is not None or selection.score < limit.value,
    )
    off = _drop_layers(evaluator, limit, start)
    protocol = context.settings.noise.protocol
    for layer in reversed(list(off.neurons.layers)):
        order = order_of_tests(selection.candidates[layer], protocol)
        off = _drop_neurons(evaluator, limit, off, layer, order)
    is_minimal = all(
        evaluator.known_below(off.neurons - Neurons.of([neuron]), limit) is False
        for neuron in off.neurons
    )
    return Refinement(off.neurons, off.score, minimal=True if is_minimal else None)


def order_of_tests(layer: LayerCandidates, protocol: Protocol) -> list[int]:
    """Return the neurons of a layer in the order of their tests.

    Those above theta come by index, then the most active ones by falling activation. A neuron in
    both is listed twice under protocol "published", as in the published code, and at its last
    position under "paper".

    Examples:
        >>> layer = LayerCandidates(above_theta=(2, 5), most_active=(7, 2))
        >>> order_of_tests(layer, "published"), order_of_tests(layer, "paper")
        ([2, 5, 7, 2], [5, 7, 2])
    """
    listed = [*layer.above_theta, *layer.most_active]
    if protocol == "published":
        return listed
    return [index for position, index in enumerate(listed) if index not in listed[position + 1 :]]


def _drop_layers(evaluator: Evaluator, limit: Limit, off: _Off) -> _Off:
    for layer in reversed(list(off.neurons.layers)):
        off = _drop(evaluator, limit, off, Neurons({layer: off.neurons.layers[layer]})) or off
    return off


def _drop_neurons(
    evaluator: Evaluator, limit: Limit, off: _Off, layer: str, order: list[int]
) -> _Off:
    """Test the neurons of a layer one by one.

    Taking one copy of a doubled neuron off the list changes nothing in the model. The published
    code therefore takes it off exactly if the present score is below the limit, and the neuron
    itself is tested only at its second position. If the first copy stays listed, the neuron stays.
    """
    listed = list(order)
    for index in order:
        if listed.count(index) > 1:
            if off.below:
                listed.remove(index)
            continue
        dropped = _drop(evaluator, limit, off, Neurons({layer: [index]}))
        if dropped is not None:
            off = dropped
            listed.remove(index)
    return off


def _drop(evaluator: Evaluator, limit: Limit, off: _Off, neurons: Neurons) -> _Off | None:
    """Switch neurons back on, or return None if the score would not stay below the limit."""
    rest = off.neurons - neurons
    score = evaluator.below(rest, limit)
    return None if score is None else _Off(rest, score, below=True)
