"""How few seeds tell whether a prompt is memorized: which to look at first and when to stop.

Both are learned on the prompts of a calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from unmemorize.detection._conformal import FITTING, conformal_quantile, smallest_rate

Stop = Literal["decided", "cleared", "never"]
"""When to stop looking at the seeds of a prompt: once its verdict is decided, once it is cleared as
not memorized, or never."""

LOSS = 0.04
"""The share of memorized prompts that all stops together may lose, see `Cascade`."""


@dataclass(frozen=True)
class Cascade:
    """The order in which seeds tell most, and when the highest similarity so far is enough.

    A prompt stops as memorized above tau, which more seeds cannot change. So a cascade calls no
    prompt memorized that all seeds do not call so, and whatever bounds the false positives of all
    seeds bounds those of the cascade.

    A prompt stops as not memorized below the level of a stop. The level is tau minus a margin, and
    the margin is the conformal quantile of how much all seeds exceed the first ones over
    calibration prompts. Stop j loses at most a share of LOSS / 2^j of the prompts that all seeds
    call memorized, or 1 / (n + 1) where n prompts allow no smaller rate, as long as all seeds
    exceed the first ones by no more there than for calibration prompts. The order comes from
    other prompts than the margins, because the quantile holds for prompts that chose nothing.

    A prompt below the floor is not stopped: its first seeds are less alike than those of any
    calibration prompt, so it is not like these, and the margin says nothing about it.

    Args:
        order: all seeds, the most telling ones first.
        stops: (seeds, level), few seeds first.
        floor: the similarity below which no prompt is stopped.
    """

    order: tuple[int, ...]
    stops: tuple[tuple[int, float], ...]
    floor: float = 0.0

    @classmethod
    def learn(cls, matrices: Tensor, tau: float) -> Cascade:
        """Learn the order that leaves least to other seeds, and the level of each stop.

        Args:
            matrices: the pairwise similarities of the seeds of each calibration prompt, at least
                two: (prompts, seeds, seeds).
            tau: the similarity above which a prompt is memorized.
        """
        fitting = max(1, len(matrices) // FITTING)
        order = _telling_order(matrices[:fitting])
        others = matrices[fitting:]
        stops = []
        for seeds in range(2, len(order)):
            rate = smallest_rate(len(others), LOSS / 2 ** (seeds - 1))
            margin = conformal_quantile(_left(others, order[:seeds]).tolist(), rate)
            stops.append((seeds, tau - margin))
        return cls(order, tuple(stops), float(_highest(others, order[:2]).min()))

    def clears(self, similarity: float, level: float) -> bool:
        """Tell whether a prompt stops as not memorized at a level."""
        return self.floor <= similarity < level


def _telling_order(matrices: Tensor) -> tuple[int, ...]:
    """Return the seeds such that the first ones come close to the highest of all pairs."""
    count = matrices.shape[1]

    def left(seeds: tuple[int, ...]) -> float:
        return float(_left(matrices, seeds).mean())

    order: tuple[int, ...] = min(combinations(range(count), 2), key=left)
    while len(order) < count:
        order = min(
            ((*order, seed) for seed in range(count) if seed not in order),
            key=left,
        )
    return order


def _left(matrices: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return by how much all seeds of each prompt exceed some of them, (prompts,)."""
    return _highest(matrices, range(matrices.shape[1])) - _highest(matrices, seeds)


def _highest(matrices: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return the highest similarity among some seeds of each prompt, (prompts,)."""
    rows, columns = torch.tensor(list(combinations(seeds, 2))).T
    return matrices[:, rows, columns].amax(1)
