"""Where a prompt changes the density at the end of a run: maps, and detectors made of them.

Source: Kim and Lee (ICML 2026), whose code is at Gwangho99/mem-curv-diff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unmemorize._errors import ThresholdError
from unmemorize.detection._derivatives import text_gradients
from unmemorize.detection._detector import Score, check_settings, make_scores
from unmemorize.detection._moment import GUIDANCE, STEPS, Moment
from unmemorize.detection._trace import Trace


@dataclass(frozen=True, kw_only=True)
class ScoreDifference:
    """Scores a prompt by the mean of a map of what text changes at the last step of a guided run.

    The map is the sum over channels of (s_y - s_o)^2, where s = -eps / sigma is the score.

    Args:
        seeds: initial noises.
        steps: steps of the run.
        guidance: its scale of guidance.
    """

    name: ClassVar[str] = "score-difference"
    seeds: int = 1
    steps: int = STEPS
    guidance: float = GUIDANCE

    def __post_init__(self) -> None:
        check_settings(self)
        Moment(0, self.steps)

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        values = self._maps(trace).mean((2, 3))
        return make_scores(values, self.seeds, samples=2 * self.steps - 1, shared=1)

    def maps(self, trace: Trace) -> Tensor:
        """See `Locating`."""
        return self._maps(trace).mean(1)

    def _maps(self, trace: Trace) -> Tensor:
        moment = Moment(-1, self.steps, self.guidance)
        level, samples = trace.level(moment), trace.samples(self.seeds, moment)
        change = level.noise(trace.predictions(self.seeds, moment), samples) - level.noise(
            trace.unconditional(self.seeds, moment), samples
        )
        return change.square().sum(2) / level.sigma**2  # (prompts, seeds, H, W)


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """Scores a prompt by the mean of a map of curvature at the last step of a guided run.

    The map is the sum over channels of d(eps_y - eps_o)_i / dx_i, negative values cut: large where
    the density with text is more curved than without. The diagonal is estimated from random signs.

    Args:
        seeds: initial noises.
        vectors: how many vectors of random signs.
        steps: steps of the run.
        guidance: its scale of guidance.
    """

    name: ClassVar[str] = "curvature"
    seeds: int = 1
    vectors: int = 16
    steps: int = STEPS
    guidance: float = GUIDANCE

    def __post_init__(self) -> None:
        check_settings(self)
        Moment(0, self.steps)
        if self.vectors < 1:
            raise ThresholdError(f"vectors={self.vectors}: at least 1 is needed.")

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        values = self._maps(trace).mean((2, 3))
        # the run up to the last step, there a pass of both, and backward passes of both
        samples = 2 * self.steps - 1 + 2 * self.vectors
        return make_scores(values, self.seeds, samples=samples, shared=1)

    def maps(self, trace: Trace) -> Tensor:
        """See `Locating`."""
        return self._maps(trace).mean(1)

    def _maps(self, trace: Trace) -> Tensor:
        signs = random_signs(trace.model.latent_shape, self.vectors, trace.settings.seed)
        moment = Moment(-1, self.steps, self.guidance)
        diagonal = text_gradients(trace, self.seeds, moment, signs.__getitem__, self.vectors)
        return diagonal.sum(2).relu()  # (prompts, seeds, H, W)


def random_signs(shape: tuple[int, int, int], count: int, seed: int) -> Tensor:
    """Draw vectors of -1 and 1, (count, C, H, W), the same for all prompts and devices."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (count, *shape), generator=generator) * 2.0 - 1
