"""Tests of a set of neurons against a limit.

They end as soon as the answer is known, where the score of a seed does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unmemorize.localization._criteria import Limit, Scoring
from unmemorize.localization._passes import Pass, Passes
from unmemorize.neurons import Neurons

_SCREENED = 3
"""Seeds of a set that is only screened."""
_GROWTH = 4
"""How much larger each batch of seeds is than the previous one."""


@dataclass(frozen=True)
class Answer:
    """What a test of a set of neurons showed.

    Args:
        below: whether the score stays below the limit.
        at_least: the score is at least this.
        scores: of all seeds or pairs; None where the test ended early.
        blocked: the passes of all seeds; None where the test failed.
    """

    below: bool
    at_least: float
    scores: Tensor | None = None
    blocked: Pass | None = None


class Tests(Protocol):
    """Tests of sets of neurons."""

    def answer(self, off: Neurons, limit: Limit) -> Answer:
        """Test the score with these neurons off."""


@dataclass(frozen=True)
class WholeTests:
    """Tests that always run all seeds, for scores that depend on all of them.

    Args:
        passes: runs the denoiser.
        seeds: the memorized seeds.
        scoring: makes the scores.
    """

    passes: Passes
    seeds: Sequence[int]
    scoring: Scoring

    def answer(self, off: Neurons, limit: Limit) -> Answer:
        """Test the score with these neurons off."""
        return _of_all(self.passes.run(off, self.seeds), self.scoring, limit)


class SeedTests:
    """Tests by the highest score of a seed: one seed too high is enough to fail.

    Seeds run in growing batches. The seed that made the last test fail goes first in the next one.

    Args:
        passes: runs the denoiser.
        seeds: the memorized seeds.
        scoring: makes one score per seed.
    """

    def __init__(self, passes: Passes, seeds: Sequence[int], scoring: Scoring) -> None:
        self._passes = passes
        self._seeds = list(seeds)
        self._scoring = scoring
        self._order = list(range(len(seeds)))

    def answer(self, off: Neurons, limit: Limit) -> Answer:
        """Test the score with these neurons off."""
        scores = torch.empty(len(self._seeds), dtype=torch.float32)
        finished: list[Pass] = []
        for positions in _growing_batches(self._order):
            blocked = self._passes.run(off, [self._seeds[position] for position in positions])
            batch_scores = self._scoring.scores(blocked)
            exceeded = limit.exceeded(batch_scores, positions)
            if bool(exceeded.any()):
                self._put_first(positions[int(exceeded.float().argmax())])
                return Answer(below=False, at_least=float(batch_scores.max()))
            scores[positions] = batch_scores
            finished.append(blocked)
        return Answer(True, self._scoring.reduce(scores), scores, Pass.join(finished))

    def _put_first(self, position: int) -> None:
        self._order.remove(position)
        self._order.insert(0, position)


class PairTests:
    """Tests by the mean score over all pairs of seeds.

    Similarities are never negative, so the pairs of the first seeds can already make the mean over
    all pairs too high. If not, as many others run as would be enough if they were as alike.

    A set can also be screened with the first few seeds. How much their mean differs from that of
    all seeds depends on their noise far more than on the neurons that are off. So the difference
    in the last pass over all seeds is added.

    Args:
        passes: runs the denoiser.
        seeds: the memorized seeds.
        scoring: makes one score per pair.
        unblocked: a pass over these seeds with nothing off.
    """

    def __init__(
        self, passes: Passes, seeds: Sequence[int], scoring: Scoring, unblocked: Pass
    ) -> None:
        self._passes = passes
        self._seeds = list(seeds)
        self._scoring = scoring
        self._screens: dict[Neurons, float] = {}
        self._unfinished: dict[bool, Pass] = {}
        self._excess = self._excess_of(unblocked)

    def answer(self, off: Neurons, limit: Limit) -> Answer:
        """Test the score with these neurons off. A set that was just screened is not run twice."""
        count = len(self._seeds)
        finished = [begun for begun in self._unfinished.values() if begun.off == off][:1]
        self._unfinished.clear()
        done = sum(len(each.seeds) for each in finished)
        telling = max(done, fewest_telling_seeds(count, limit.value))
        while True:
            if done < telling:
                finished.append(self._passes.run(off, self._seeds[done:telling]))
            blocked, done = Pass.join(finished), telling
            if done == count:
                break
            scores = self._scoring.scores(blocked)
            mean_so_far = scores.sum() / _pairs(count)
            if bool(limit.exceeded(mean_so_far)):
                return Answer(below=False, at_least=float(mean_so_far))
            alike = float(scores.mean())
            needed = limit.value / alike if alike > limit.value else 1.0
            telling = max(done + 1, fewest_telling_seeds(count, needed))
        self._excess = self._excess_of(blocked)
        return _of_all(blocked, self._scoring, limit)

    def is_screened(self, off: Neurons) -> bool:
        """Tell whether the first few seeds have run with these neurons off."""
        return off in self._screens

    def screen(self, off: Neurons, limit: Limit) -> tuple[float, bool]:
        """Return the score that the first few seeds let expect, and whether it is below a limit.

        The last screened set that was below the limit and the last one that was not can be
        finished by `answer`.
        """
        begun = None
        if off not in self._screens:
            begun = self._passes.run(off, self._seeds[:_SCREENED])
            self._screens[off] = self._mean(begun)
        score = self._screens[off] + self._excess
        below = not bool(limit.exceeded(torch.tensor(score, dtype=torch.float32)))
        if begun is not None:
            self._unfinished[below] = begun
        return score, below

    def _excess_of(self, whole: Pass) -> float:
        """Return how much the mean over all pairs exceeds that over the pairs of a screen."""
        return self._mean(whole) - self._mean(whole.only(self._seeds[:_SCREENED]))

    def _mean(self, blocked: Pass) -> float:
        return self._scoring.reduce(self._scoring.scores(blocked))


def _of_all(blocked: Pass, scoring: Scoring, limit: Limit) -> Answer:
    scores = scoring.scores(blocked)
    score = scoring.reduce(scores)
    if scoring.too_high(scores, limit):
        return Answer(False, score, scores)
    return Answer(True, score, scores, blocked)


def fewest_telling_seeds(count: int, limit: float) -> int:
    """Return how many seeds can make the mean over the pairs of all seeds exceed a limit.

    Examples:
        >>> fewest_telling_seeds(10, limit=0.3)
        6
    """
    return next(
        size
        for size in range(2, count + 1)
        if size == count or _pairs(size) / _pairs(count) > limit
    )


def _pairs(count: int) -> float:
    return count * (count - 1) / 2


def _growing_batches(order: Sequence[int]) -> Iterator[list[int]]:
    start, size = 0, 1
    while start < len(order):
        yield list(order[start : start + size])
        start += size
        size *= _GROWTH
