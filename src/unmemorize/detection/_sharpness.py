"""How sharply the density that a prompt conditions is curved where sampling begins.

Sources: Jeon et al. (ICML 2025), and "Early detection", an ICML 2026 submission whose code is at
randomnameforicml/icml-2026.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from unmemorize.detection._derivatives import (
    energy_gradients,
    energy_gradients_without_text,
    jacobian_products,
)
from unmemorize.detection._detector import Score, check_settings, make_scores
from unmemorize.detection._moment import STEPS, Moment
from unmemorize.detection._trace import Trace


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """Scores a prompt by ||J_y Ds - J_o Ds||_2 at the first step.

    Ds is the score s = -eps / sigma with text minus without, and J v is the product of a vector and
    the Jacobian of the score with or without text.

    Args:
        seeds: initial noises.
        steps: steps of the run that the timestep belongs to.
    """

    name: ClassVar[str] = "sharpness"
    seeds: int = 1
    steps: int = STEPS

    def __post_init__(self) -> None:
        check_settings(self)

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        moment = Moment(0, self.steps)
        level, samples = trace.level(moment), trace.samples(self.seeds, moment)
        change = level.scored(trace.predictions(self.seeds, moment), samples) - level.scored(
            trace.unconditional(self.seeds, moment), samples
        )
        products, without = (
            jacobian_products(trace, self.seeds, moment, change, text=text)
            for text in (True, False)
        )
        values = level.score_scale**2 * (products - without).flatten(2).norm(dim=2)
        return make_scores(values, self.seeds, samples=7, shared=1)


@dataclass(frozen=True, kw_only=True)
class HessianDifference:
    """Scores a prompt by the squared norm of a difference of gradients at the first step.

    They are the gradients of ||eps||^2 / 2 with respect to x, with text and without.

    Args:
        seeds: initial noises.
        steps: steps of the run that the timestep belongs to.
    """

    name: ClassVar[str] = "hessian-difference"
    seeds: int = 1
    steps: int = STEPS

    def __post_init__(self) -> None:
        check_settings(self)

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        moment = Moment(0, self.steps)
        gradients = energy_gradients(trace, self.seeds, moment)
        without = energy_gradients_without_text(trace, self.seeds, moment)
        values = (gradients - without).flatten(2).square().sum(2)
        return make_scores(values, self.seeds, samples=2, shared=2)
