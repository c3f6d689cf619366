"""Refinement: switch candidates back on, layer by layer and then one by one, as long as the copy stays away.

Paper: section 3.2, second part, and algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from unmemorize._neurons import Neurons
from unmemorize._similarity import Protocol
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._selection import LayerCandidates, Selection
from unmemorize.localization._settings import LocalizationSettings


@dataclass(frozen=True)
class Refinement:
    """The neurons that are left, the score with them off, and the threshold it had to stay below."""

    neurons: Neurons
    score: float
    threshold: float


def refine(evaluator: Evaluator, selection: Selection, tau: float, settings: LocalizationSettings) -> Refinement:
    """Switch candidates back on, last layer first; what brings the score to the threshold or above stays off.

    The threshold is ``tau``, or the selection's own score where that never fell to tau; `LocalizationSettings.relative_threshold` replaces
    it by another test. Layers are tested whole, then each neuron of the layers that are left: those above theta by index, then the most
    active ones by falling activation.

    A neuron in both lists stands twice under ``protocol="upstream"``, as in the published code: taking one copy off the list changes
    nothing in the model, so it goes only if what is off now passes the test already.
    """
    current, score = selection.neurons, selection.score
    test = _Test(evaluator, selection, tau, settings.relative_threshold)
    passing = test.initially
    for path in reversed(list(current.layers)):
        trial = current - Neurons({path: current.layers[path]})
        passed, trial_score = test(trial)
        if passed:
            current, score, passing = trial, trial_score, True
    for path in reversed(list(current.layers)):
        listed = _listed(selection.candidates[path], settings.noise.protocol)
        for index in list(listed):
            if listed.count(index) > 1:
                if passing:
                    listed.remove(index)
                continue
            trial = current - Neurons({path: [index]})
            passed, trial_score = test(trial)
            if passed:
                current, score, passing = trial, trial_score, True
                listed.remove(index)
    return Refinement(current, score, test.threshold)


class _Test:
    """Whether the copy stays away with fewer neurons off: the score below the threshold, or near enough to that of all candidates."""

    def __init__(self, evaluator: Evaluator, selection: Selection, tau: float, relative: float | None) -> None:
        self._evaluator, self._relative = evaluator, relative
        self.threshold = selection.score if selection.floor else tau
        self.initially = relative is not None or selection.score < self.threshold
        self._reference = evaluator.scores(selection.neurons) if relative is not None else None

    def __call__(self, off: Neurons) -> tuple[bool, float]:
        scores = self._evaluator.scores(off)
        score = self._evaluator.reduce(scores)
        if self._relative is None or self._reference is None:
            return score < self.threshold, score
        return float(((scores - self._reference) / self._reference).abs().max()) < self._relative, score


def _listed(layer: LayerCandidates, protocol: Protocol) -> list[int]:
    """The neurons of a layer in the order of their tests."""
    doubled = [*layer.above_theta, *layer.most_active]
    if protocol == "upstream":
        return doubled
    return [index for place, index in enumerate(doubled) if index not in doubled[place + 1 :]]
