"""How much and in which direction the text changes the prediction.

Source: Asthana and Belagiannis (ICLR 2026).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch.nn.functional import cosine_similarity

from unmemorize.detection._detector import Score, check_settings
from unmemorize.detection._moment import STEPS, Moment
from unmemorize.detection._noise_magnitude import magnitudes
from unmemorize.detection._trace import Trace


@dataclass(frozen=True, kw_only=True)
class Anisotropy:
    """Scores a prompt by the norm of what the text changes, plus the direction of the change.

    Both are measured on untouched noise: the norm at the first timestep, and at a late one the mean
    over pixels of the cosine between eps(x, "") and eps(x, y) - eps(x, ""). A calibration finds
    mean and deviation of both over ordinary prompts, and they are added up in these units. Without
    a calibration they are added up as they are.

    Args:
        seeds: initial noises.
        late: the step of the cosine.
        steps: steps of the run that the timesteps belong to.
        weights: of norm and cosine.
        means, deviations: of norm and cosine over ordinary prompts.
    """

    name: ClassVar[str] = "anisotropy"
    seeds: int = 4
    late: int = -3
    steps: int = STEPS
    weights: tuple[float, float] = (1.0, 1.0)
    means: tuple[float, ...] = field(default=(0.0, 0.0), metadata={"fitted": True})
    deviations: tuple[float, ...] = field(default=(1.0, 1.0), metadata={"fitted": True})

    def __post_init__(self) -> None:
        check_settings(self)
        Moment(self.late, self.steps)

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        late = Moment(self.late, self.steps)
        level, samples = trace.level(late), trace.samples(self.seeds, late)
        without = level.noise(trace.unconditional(self.seeds, late), samples)
        change = level.noise(trace.predictions(self.seeds, late), samples) - without
        cosines = cosine_similarity(without, change, dim=2).mean((2, 3))  # (prompts, seeds)
        norms = magnitudes(trace, self.seeds, Moment(0, self.steps))
        return [
            Score(
                value=self.weigh((norm, cosine)),
                samples=2 * self.seeds,
                shared=2 * self.seeds,
                seeds=tuple(range(self.seeds)),
                parts=(norm, cosine),
            )
            for norm, cosine in zip(norms.mean(1).tolist(), cosines.mean(1).tolist(), strict=True)
        ]

    def fitted(self, parts: Sequence[tuple[float, ...]]) -> Self:
        """See `Weighing`."""
        values = torch.tensor(parts, dtype=torch.float64)
        deviations = values.std(0).clamp_min(torch.finfo(torch.float32).tiny)
        return replace(
            self, means=tuple(values.mean(0).tolist()), deviations=tuple(deviations.tolist())
        )

    def weigh(self, parts: tuple[float, ...]) -> float:
        """See `Weighing`."""
        terms = zip(self.weights, parts, self.means, self.deviations, strict=True)
        return sum(weight * (part - mean) / spread for weight, part, mean, spread in terms)
