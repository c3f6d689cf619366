"""The detector of Wen et al. (ICLR 2024): how much the text changes the prediction.

A memorized prompt moves the denoiser's output further away from its output without text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unmemorize.detection._detector import Score
from unmemorize.detection._trace import Trace


@dataclass(frozen=True)
class NoiseMagnitude:
    """Scores a prompt by the mean over seeds of the 2-norm of eps(x, y) - eps(x, "").

    The norm is taken over all channels and pixels at the one timestep of the trace, on untouched
    noise. Norms grow with the size of the latents, so thresholds never carry over between models.
    """

    name: str = "noise-magnitude"

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        seeds = tuple(range(trace.settings.seeds))
        scores = []
        for prompt in range(len(trace)):
            changes = trace.text_differences([(prompt, seed) for seed in seeds])
            norms = changes.flatten(1).norm(dim=1)  # (seeds,)
            value = float(norms.mean())
            scores.append(Score(value=value, samples=2 * len(seeds), seeds=seeds))
        return scores
