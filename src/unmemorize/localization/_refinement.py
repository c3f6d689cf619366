"""Refinement: which candidates stay off, and which can be switched back on.

A method of refinement is a function like `Refine` in a module of its own. It is registered by its
name in `RefinementMethod` (_settings.py) and in `REFINEMENTS` (_refinements.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from unmemorize.localization._criteria import Limit
from unmemorize.localization._evaluator import Evaluator
from unmemorize.localization._records import Effects
from unmemorize.localization._selection import Selection
from unmemorize.localization._settings import LocalizationSettings
from unmemorize.neurons import Neurons


@dataclass(frozen=True)
class RefinementContext:
    """What a method may use besides the scores.

    Args:
        settings: of the localization.
        z_scores: layer -> z-scores of all its neurons, (features,).
    """

    settings: LocalizationSettings
    z_scores: Mapping[str, Tensor]


@dataclass(frozen=True)
class Refinement:
    """The result of a refinement.

    Args:
        neurons: the neurons that stay off.
        score: the score with them off.
        minimal: whether no single one of them can be switched back on; None if that was not tested.
        effects: how much each of them changes the prediction; None if that was not measured.
    """

    neurons: Neurons
    score: float
    minimal: bool | None
    effects: Effects | None = None


class Refine(Protocol):
    """A method of refinement."""

    def __call__(
        self,
        evaluator: Evaluator,
        selection: Selection,
        limit: Limit,
        context: RefinementContext,
        /,
    ) -> Refinement:
        """Choose the candidates that stay off."""


def refinement_limit(
    evaluator: Evaluator, selection: Selection, tau: float, relative: float | None
) -> Limit:
    """Return what the scores must stay below while candidates are switched back on.

    Args:
        evaluator: scores the candidates.
        selection: the result of the initial selection.
        tau: the threshold. If theta was exhausted, the score of the selection replaces it.
        relative: if given, the limit is instead this distance of each seed's score from its score
            with all candidates off, as a fraction.
    """
    if relative is not None:
        return Limit(relative, reference=evaluator.scores(selection.neurons))
    return Limit(selection.score if selection.theta_exhausted else tau)
