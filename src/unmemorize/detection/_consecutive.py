"""How much the prediction changes from one step to the next (DSM).

Source: "Early detection", an ICML 2026 submission whose code is at randomnameforicml/icml-2026.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unmemorize._errors import ThresholdError
from unmemorize.detection._detector import Score, check_settings, make_scores
from unmemorize.detection._moment import GUIDANCE, STEPS, Moment
from unmemorize.detection._trace import Trace


@dataclass(frozen=True, kw_only=True)
class ConsecutiveDifference:
    """Scores a prompt by ||eps(x_{i+1}, y) - eps(x_i, y)||^2 along a guided run.

    A generation computes both predictions anyway. For a model that does not predict noise, the two
    are the clean images that it predicts.

    Args:
        seeds: initial noises.
        step: i, from 0.
        steps: steps of the run.
        guidance: its scale of guidance.
    """

    name: ClassVar[str] = "dsm"
    seeds: int = 4
    step: int = 0
    steps: int = STEPS
    guidance: float = GUIDANCE

    def __post_init__(self) -> None:
        check_settings(self)
        if self.step < 0:  # the step after the last one would be the first
            raise ThresholdError(f"step={self.step}: steps are counted from 0. Use 0 or more.")
        Moment(self.step + 1, self.steps)

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        now, following = (
            self._estimates(trace, Moment(step, self.steps, self.guidance))
            for step in (self.step, self.step + 1)
        )
        values = (following - now).flatten(2).square().sum(2)
        return make_scores(values, self.seeds, samples=2 * (self.step + 1), shared=1)

    def _estimates(self, trace: Trace, moment: Moment) -> Tensor:
        predictions = trace.predictions(self.seeds, moment)
        return trace.level(moment).estimate(predictions, trace.samples(self.seeds, moment))
