"""How few seeds tell whether a prompt is memorized: which to look at first, and when to stop; learned on the prompts of a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

_STAGES = (2, 3, 4, 6)
"""Seeds after which a cascade may stop; each more stops some prompts earlier and risks some verdicts."""


@dataclass(frozen=True)
class Cascade:
    """Seeds in the order in which they tell most, and when the highest similarity so far is enough.

    A prompt stops as memorized above tau, which more seeds cannot change, and as not memorized below the level of a stop, below which lies
    no calibration prompt that all seeds call memorized. With m such prompts, a stop loses about one in m + 1 memorized prompts that are
    like them.

    Args:
        order: of all seeds.
        stops: (seeds, level), few seeds first.
    """

    order: tuple[int, ...]
    stops: tuple[tuple[int, float], ...]

    @classmethod
    def learn(cls, matrices: Tensor, tau: float) -> Cascade:
        """The order that decides most calibration prompts at each number of seeds, seed by seed, and the levels that lose none.

        Args:
            matrices: pairwise similarity of the seeds of each calibration prompt, (prompts, seeds, seeds).
            tau: above it a prompt is memorized.

        Without any prompt that is memorized by tau, only those stop that are less alike than all of these.
        """
        count = matrices.shape[1]
        called = _highest(matrices, range(count)) > tau

        def level(early: Tensor) -> float:
            return min(tau, float(early[called].min() if called.any() else early.min()))

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
    """The highest similarity among some seeds of each prompt, shape (prompts,)."""
    rows, columns = zip(*combinations(seeds, 2), strict=True)
    return matrices[:, rows, columns].amax(1)
