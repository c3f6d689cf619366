"""The detector of NeMo: how alike the noise differences of different seeds are.

Paper: section 3.1. The first denoising step of a memorized prompt leads to the same image from any
initial noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from unmemorize.detection._cascade import Cascade
from unmemorize.detection._detector import Score
from unmemorize.detection._similarity import pairs_of, pairwise_similarity
from unmemorize.detection._trace import Trace


class SeedSimilarity:
    """Scores a prompt by the highest similarity between the noise differences of two seeds.

    Its settings are `NoiseSettings`, which it shares with localization.

    Args:
        cascade: which seeds to look at first and when to stop; None looks at all of them.
        tau: the score above which a cascade stops; infinite where it stops only what it clears.
    """

    name: ClassVar[str] = "seed-similarity"

    def __init__(self, cascade: Cascade | None = None, tau: float = math.inf) -> None:
        self.cascade, self.tau = cascade, tau

    def score(self, trace: Trace) -> Sequence[Score]:
        """See `Detector`."""
        count = trace.settings.seeds
        order = self.cascade.order if self.cascade else tuple(range(count))
        stops = self.cascade.stops if self.cascade else ()
        differences: list[list[Tensor]] = [[] for _ in range(len(trace))]
        matrices: list[Tensor] = [torch.empty(0, dtype=torch.float32)] * len(trace)
        undecided = list(range(len(trace)))
        done = 0
        for seeds, level in (*stops, (count, math.inf)):
            pairs = [(prompt, seed) for prompt in undecided for seed in order[done:seeds]]
            if not pairs:
                break
            for (prompt, _), image in zip(pairs, trace.noise_differences(pairs), strict=True):
                differences[prompt].append(image)
            for prompt in undecided:
                matrices[prompt] = pairwise_similarity(
                    torch.stack(differences[prompt]), trace.settings.similarity
                )
            undecided = [
                prompt
                for prompt in undecided
                if not self._stops(float(pairs_of(matrices[prompt]).max()), level)
            ]
            done = seeds
        return [
            Score(
                value=float(pairs_of(matrix).max()),
                samples=len(matrix),
                shared=len(matrix) if trace.settings.guidance else 0,
                seeds=order[: len(matrix)],
                pairs=tuple(pairs_of(matrix).tolist()),
            )
            for matrix in matrices
        ]

    def _stops(self, similarity: float, level: float) -> bool:
        cleared = self.cascade is not None and self.cascade.clears(similarity, level)
        return cleared or similarity > self.tau
