"""The interface of detectors, which tell from a few denoiser passes what is memorized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from unmemorize.detection._trace import Trace


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a detector says of one prompt.

    Args:
        value: the score. A higher one means more memorized.
        samples: denoiser samples that the prompt takes alone.
        seeds: the seeds that were looked at, in this order.
        pairs: the similarity of each pair of these seeds, in the order of `pairs_of`; empty for
            detectors that do not compare seeds.
    """

    value: float
    samples: int
    seeds: tuple[int, ...]
    pairs: tuple[float, ...] = ()


class Detector(Protocol):
    """Scores prompts from a trace of the denoiser.

    Add one by a class in a module of its own and an entry point of the group
    ``unmemorize.detectors``; see docs/extending.md.
    """

    @property
    def name(self) -> str:
        """The name in thresholds, records and options."""
        ...

    def score(self, trace: Trace) -> Sequence[Score]:
        """Score every prompt of the trace, in its order."""
        ...
