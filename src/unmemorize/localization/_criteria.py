"""Scores of blocked noise differences under both criteria, and the limit they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from unmemorize.detection import SIMILARITIES, SimilarityName, pairs_of, pairwise_similarity
from unmemorize.localization._passes import Pass


@dataclass(frozen=True)
class Limit:
    """What the score of a set of neurons must not reach.

    Args:
        value: the limit of the score; with a reference, the limit of each seed's relative distance
            from it.
        strict: whether a score must stay below the limit, as in refinement. Otherwise it may equal
            it, as in selection.
        reference: one score per memorized seed, or None.
    """

    value: float
    strict: bool = True
    reference: Tensor | None = None

    def exceeded(self, scores: Tensor, positions: Sequence[int] | None = None) -> Tensor:
        """Tell which scores are too high, as a tensor of booleans like ``scores``.

        Args:
            scores: one score, or one per seed.
            positions: which entries of the reference belong to the scores; None for all.
        """
        if self.reference is not None:
            reference = self.reference if positions is None else self.reference[list(positions)]
            scores = ((scores - reference) / reference).abs()
        return scores >= self.value if self.strict else scores > self.value


class Scoring(Protocol):
    """How blocked noise differences become one number."""

    def scores(self, blocked: Pass) -> Tensor:
        """Return one score per seed or pair of seeds of the pass."""

    def reduce(self, scores: Tensor) -> float:
        """Return one number in [0, 1] for the scores of all memorized seeds."""

    def too_high(self, scores: Tensor, limit: Limit) -> bool:
        """Tell whether the scores of all memorized seeds exceed the limit."""


@dataclass(frozen=True)
class UnblockedScoring:
    """Criterion "unblocked": the highest similarity of a seed to its own unblocked difference.

    Args:
        unblocked: noise differences of all seeds with nothing switched off, (seeds, C, H, W).
        definition: how noise differences are compared.
    """

    unblocked: Tensor
    definition: SimilarityName = "fixed"

    def scores(self, blocked: Pass) -> Tensor:
        """Return one similarity per seed."""
        compare = SIMILARITIES[self.definition]
        return compare(self.unblocked[list(blocked.seeds)], blocked.differences).cpu()

    def reduce(self, scores: Tensor) -> float:
        """Return the highest score."""
        return float(scores.max())

    def too_high(self, scores: Tensor, limit: Limit) -> bool:
        """Tell whether any seed exceeds the limit."""
        return bool(limit.exceeded(scores).any())


@dataclass(frozen=True)
class SeedsScoring:
    """Criterion "seeds": the mean similarity of the blocked differences to each other.

    Args:
        definition: how noise differences are compared.
    """

    definition: SimilarityName = "fixed"

    def scores(self, blocked: Pass) -> Tensor:
        """Return one similarity per pair of seeds."""
        return pairs_of(pairwise_similarity(blocked.differences, self.definition))

    def reduce(self, scores: Tensor) -> float:
        """Return the mean over the pairs."""
        return float(scores.mean())

    def too_high(self, scores: Tensor, limit: Limit) -> bool:
        """Tell whether the mean exceeds the limit."""
        return bool(limit.exceeded(scores.mean()))
