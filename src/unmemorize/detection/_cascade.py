"""How few seeds tell whether a prompt is memorized: which to look at first and when to stop.

Both are learned on the prompts of a calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

_STAGES = (2, 3, 4, 6)
"""Numbers of seeds after which a cascade may stop. Each further one stops some prompts earlier and
risks some verdicts."""


@dataclass(frozen=True)
class Cascade:
    """The order in which seeds tell most, and when the highest similarity so far is enough.

    A prompt stops as memorized above tau, which more seeds cannot change. It stops as not memorized
    below the level of a stop: no calibration prompt that all seeds call suspect lies below it. With
    m such prompts, a stop loses about one in m + 1 memorized prompts that are like them.

    Args:
        order: all seeds, the most telling ones first.
        stops: (seeds, level), few seeds first.
    """

    order: tuple[int, ...]
    stops: tuple[tuple[int, float], ...]

    @classmethod
    def learn(cls, matrices: Tensor, tau: float, suspect: float) -> Cascade:
        """Learn the order that decides most prompts at each number of seeds, and safe levels.

        Where no calibration prompt is suspect, only prompts less alike than all of them stop.

        Args:
            matrices: the pairwise similarities of the seeds of each calibration prompt,
                (prompts, seeds, seeds).
            tau: the similarity above which a prompt is memorized.
            suspect: the similarity, at most tau, above which a calibration prompt stands for the
                memorized ones. Few lie above a tau that bounds the rate of false positives.
        """
        count = matrices.shape[1]
        suspects = _highest(matrices, range(count)) > suspect

        def level(early: Tensor) -> float:
            return min(tau, float(early[suspects].min() if suspects.any() else early.min()))

        def decided(seeds: tuple[int, ...]) -> Tensor:
            early = _highest(matrices, seeds)
            return (early > tau) | (early < level(early))

        is_open = torch.ones(len(matrices), dtype=torch.bool)
        order: tuple[int, ...] = max(
            combinations(range(count), 2), key=lambda pair: int(decided(pair).sum())
        )
        stops = []
        while len(order) < count:
            if len(order) in _STAGES:
                stops.append((len(order), level(_highest(matrices, order))))
                is_open &= ~decided(order)
            left = (seed for seed in range(count) if seed not in order)
            order = max(
                ((*order, seed) for seed in left),
                key=lambda seeds: int((is_open & decided(seeds)).sum()),
            )
        return cls(order, tuple(stops))


def _highest(matrices: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return the highest similarity among some seeds of each prompt, (prompts,)."""
    rows, columns = zip(*combinations(seeds, 2), strict=True)
    return matrices[:, rows, columns].amax(1)
