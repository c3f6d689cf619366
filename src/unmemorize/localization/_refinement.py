"""Refinement: switch candidates back on, layer by layer and then one by one, as long as the copy stays away.

Paper: section 3.2, second part, and algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from unmemorize._neurons import Neurons
from unmemorize._similarity import Protocol
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._selection import LayerCandidates, Selection


@dataclass(frozen=True)
class Refinement:
    """The neurons that are left, and the score with them off."""

    neurons: Neurons
    score: float


def refine(evaluator: Evaluator, selection: Selection, tau: float, protocol: Protocol) -> Refinement:
    """Switch candidates back on, last layer first; what brings the score to the threshold or above stays off.

    The threshold is ``tau``, or the selection's own score where that never fell to tau. Layers are tested whole, then each neuron of the
    layers that are left: those above theta by index, then the most active ones by falling activation.

    A neuron in both lists stands twice under ``protocol="upstream"``, as in the published code: taking one copy off the list changes
    nothing in the model, so its score is the current one, and it goes only if that is already below the threshold.
    """
    threshold = selection.score if selection.floor else tau
    current, score = selection.neurons, selection.score
    for path in reversed(list(current.layers)):
        trial = current - Neurons({path: current.layers[path]})
        trial_score = evaluator.score(trial)
        if trial_score < threshold:
            current, score = trial, trial_score
    for path in reversed(list(current.layers)):
        listed = _listed(selection.candidates[path], protocol)
        for index in list(listed):
            if listed.count(index) > 1:
                if score < threshold:
                    listed.remove(index)
                continue
            trial = current - Neurons({path: [index]})
            trial_score = evaluator.score(trial)
            if trial_score < threshold:
                current, score = trial, trial_score
                listed.remove(index)
    return Refinement(current, score)


def _listed(layer: LayerCandidates, protocol: Protocol) -> list[int]:
    """The neurons of a layer in the order of their tests."""
    doubled = [*layer.above_theta, *layer.most_active]
    if protocol == "upstream":
        return doubled
    return [index for place, index in enumerate(doubled) if index not in doubled[place + 1 :]]
