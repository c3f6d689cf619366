"""How much one step of denoising takes away, after Webster (arXiv 2305.08694)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from unmemorize.detection._detector import Score, check_settings, make_scores
from unmemorize.detection._moment import GUIDANCE, STEPS, Moment
from unmemorize.detection._trace import Trace


@dataclass(frozen=True, kw_only=True)
class WhiteBox:
    """Scores a prompt by the mean square of what one guided step from pure noise takes away.

    For a model that predicts noise this is (sigma / alpha)^2 * mean(eps_g^2), where eps_g is the
    guided prediction at the first timestep.

    Args:
        seeds: initial noises.
        steps: steps of the run that the timestep belongs to.
        guidance: the scale of guidance of eps_g.
    """

    name: ClassVar[str] = "white-box"
    seeds: int = 4
    steps: int = STEPS
    guidance: float = GUIDANCE

    def __post_init__(self) -> None:
        check_settings(self)

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        moment = Moment(0, self.steps)
        without = trace.unconditional(self.seeds, moment)
        guided = without + self.guidance * (trace.predictions(self.seeds, moment) - without)
        removed = trace.level(moment).removed(guided, trace.samples(self.seeds, moment))
        values = removed.square().mean((2, 3, 4))
        return make_scores(values, self.seeds, samples=1, shared=1)
