"""Greedy refinement: switch candidates back on, layer by layer and then one by one, as long as the copy stays away.

Paper: section 3.2, second part, and algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from unmemorize.detection import Protocol
from unmemorize.localization._evaluator import Evaluator, Limit
from unmemorize.localization._selection import LayerCandidates, Selection
from unmemorize.localization._settings import LocalizationSettings
from unmemorize.neurons import Neurons


@dataclass(frozen=True)
class Refinement:
    """The neurons that are left.

    Args:
        neurons: what stays off.
        score: with them off.
        threshold: what the score had to stay below.
        minimal: whether no single one of them can be switched back on.
    """

    neurons: Neurons
    score: float
    threshold: float
    minimal: bool


def refinement_limit(
    evaluator: Evaluator, selection: Selection, tau: float, relative: float | None
) -> Limit:
    """What fewer neurons off must stay below: tau, at the floor the selection's own score; or near enough to all candidates off."""
    if relative is not None:
        return Limit(relative, reference=evaluator.scores(selection.neurons))
    return Limit(selection.score if selection.theta_exhausted else tau)


def refine_greedily(
    evaluator: Evaluator, selection: Selection, limit: Limit, settings: LocalizationSettings
) -> Refinement:
    """Switch candidates back on, last layer first; what brings the score to the limit or above stays off (the paper's refinement).

    Layers are tested whole, then each neuron of the layers that are left: those above theta by index, then the most active ones by falling
    activation.

    A neuron in both lists stands twice under ``protocol="published"``, as in the published code: taking one copy off the list changes
    nothing in the model, so it goes only if what is off now passes the test already.
    """
    current, score = selection.neurons, selection.score
    passing = limit.reference is not None or score < limit.value
    for path in reversed(list(current.layers)):
        trial = current - Neurons({path: current.layers[path]})
        found = evaluator.below(trial, limit)
        if found is not None:
            current, score, passing = trial, found, True
    for path in reversed(list(current.layers)):
        listed = _listed(selection.candidates[path], settings.noise.protocol)
        for index in list(listed):
            if listed.count(index) > 1:
                if passing:
                    listed.remove(index)
                continue
            trial = current - Neurons({path: [index]})
            found = evaluator.below(trial, limit)
            if found is not None:
                current, score, passing = trial, found, True
                listed.remove(index)
    minimal = all(
        evaluator.below(current - Neurons.of([neuron]), limit) is None for neuron in current
    )
    return Refinement(current, score, limit.value, minimal)


def _listed(layer: LayerCandidates, protocol: Protocol) -> list[int]:
    """The neurons of a layer in the order of their tests."""
    doubled = [*layer.above_theta, *layer.most_active]
    if protocol == "published":
        return doubled
    return [index for place, index in enumerate(doubled) if index not in doubled[place + 1 :]]
