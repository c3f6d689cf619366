"""How much the text changes the prediction, after Wen et al. (ICLR 2024).

A memorized prompt moves the denoiser's output further away from its output without text. Norms grow
with the size of the latents, so thresholds never carry over between models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unmemorize.detection._detector import Score, check_settings, make_scores
from unmemorize.detection._moment import GUIDANCE, STEPS, Moment
from unmemorize.detection._trace import Trace


@dataclass(frozen=True, kw_only=True)
class NoiseMagnitude:
    """Scores a prompt by the mean over seeds and first steps of the norm of what text changes.

    The norm ||eps(x_t, y) - eps(x_t, "")||_2 is taken over channels and pixels along a guided run.

    Args:
        seeds: initial noises.
        first: over how many steps the mean is taken. One step is the cheapest form.
        steps: steps of the run.
        guidance: its scale of guidance.
    """

    name: ClassVar[str] = "noise-magnitude"
    seeds: int = 4
    first: int = 1
    steps: int = STEPS
    guidance: float = GUIDANCE

    def __post_init__(self) -> None:
        check_settings(self)
        Moment(self.first - 1 if self.first > 0 else self.steps, self.steps)

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        moments = [Moment(step, self.steps, self.guidance) for step in range(self.first)]
        values = torch.stack([magnitudes(trace, self.seeds, moment) for moment in moments])
        samples = 2 * self.first - 1  # without text on untouched noise it is shared
        return make_scores(values.mean(0), self.seeds, samples=samples, shared=1)


@dataclass(frozen=True, kw_only=True)
class LateNoiseMagnitude:
    """Scores a prompt by the norm of what text changes on untouched noise at a later timestep.

    The denoiser sees pure noise where it expects some of an image. So nothing but the text says
    what to draw, and no image of a run hides it.

    Args:
        seeds: initial noises.
        step: the step whose timestep is taken.
        steps: steps of the run that it belongs to.
    """

    name: ClassVar[str] = "late-noise-magnitude"
    seeds: int = 2
    step: int = 35
    steps: int = STEPS

    def __post_init__(self) -> None:
        check_settings(self)
        Moment(self.step, self.steps)

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        values = magnitudes(trace, self.seeds, Moment(self.step, self.steps))
        return make_scores(values, self.seeds, samples=1, shared=1)


def magnitudes(trace: Trace, seeds: int, moment: Moment) -> Tensor:
    """Return the norm of what the text changes, (prompts, seeds)."""
    norms: Tensor = trace.text_differences(seeds, moment).flatten(2).norm(dim=2)
    return norms
