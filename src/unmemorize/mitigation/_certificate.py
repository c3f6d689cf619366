"""What may be said after fresh seeds were generated: exact binomial certificates and verdicts.

A certificate rejects "the copy rate is above alpha" by an exact binomial test. The number of
seeds and the number of allowed copies are fixed before the first seed is generated. An adaptive
search may ask for several certificates, one attempt after another, until one is given. Attempt j
may err with probability delta / 2^j, so all attempts together err with probability below delta.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count as counter
from itertools import islice
from typing import Literal

import numpy as np
from scipy.stats import beta, binom

from unmemorize._checked import check_fields
from unmemorize._errors import MitigationError
from unmemorize.mitigation._seeds import derived_seed

Status = Literal["removed", "reduced", "not removed", "not confirmed", "not tested"]


@dataclass(frozen=True)
class Plan:
    """What is fixed before the fresh seeds of one attempt are generated.

    Args:
        attempt: its number, from 1.
        alpha: the copy rate that is tested, in (0, 1).
        delta: the probability with which the whole search for one prompt may err, in (0, 1).
        share: the part of delta that this attempt may spend, in (0, 1].
        seeds: how many fresh seeds are needed.
        allowed: how many of them may copy.
    """

    attempt: int
    alpha: float
    delta: float
    share: float
    seeds: int
    allowed: int

    @property
    def confidence(self) -> float:
        """The confidence of this attempt alone."""
        return 1 - self.delta * self.share


@dataclass(frozen=True)
class Certification:
    """The rules for the certificates of one mitigation.

    Args:
        alpha: the copy rate that a removed prompt stays below, in (0, 1).
        delta: the probability with which the statement about one prompt may be wrong, in (0, 1).
        single: whether exactly one attempt per prompt is made. It must be declared before the
            first one, and spends all of delta.
        prompts: how many prompts a common statement is about, see `holm`. It takes more seeds;
            1 is for statements about each prompt by itself.
        seeds: fresh seeds of each attempt, where more are wanted than the fewest; 0 for the fewest.
            An edit that copies seldom passes more likely then, since some of more seeds may copy.
            A later attempt that needs more takes what it needs.

    Raises:
        MitigationError: a value is of another type, a rate does not lie between 0 and 1, there is
            no prompt, or the first attempt needs more seeds.

    Examples:
        >>> [Certification().plan(attempt).seeds for attempt in (1, 2, 3)]
        [72, 86, 99]
        >>> Certification(single=True).plan(1).seeds
        59
        >>> Certification(single=True, prompts=34).plan(1).seeds
        128
        >>> [Certification(seeds=200).plan(attempt).allowed for attempt in (1, 2, 3)]
        [3, 3, 2]
    """

    alpha: float = 0.05
    delta: float = 0.05
    single: bool = False
    prompts: int = 1
    seeds: int = 0

    def __post_init__(self) -> None:
        check_fields(self, MitigationError)
        for name in ("alpha", "delta"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise MitigationError(f"{name}={value}: a rate lies between 0 and 1, such as 0.05.")
        if self.prompts < 1:
            raise MitigationError(f"prompts={self.prompts}: at least 1 is needed.")
        if self.seeds < 0:
            raise MitigationError(f"seeds={self.seeds}: 0 takes the fewest that an attempt needs.")
        if 0 < self.seeds < self.fewest:
            raise MitigationError(
                f"seeds={self.seeds}: the first attempt needs at least {self.fewest}. Take so many "
                "or more, or leave it out for the fewest."
            )

    @property
    def fewest(self) -> int:
        """The fewest seeds of the first attempt, none of which may copy."""
        return seeds_needed(self.alpha, self.delta * self._share(1) / self.prompts)

    def _share(self, attempt: int) -> float:
        return 1.0 if self.single else 0.5**attempt

    def plan(self, attempt: int) -> Plan:
        """Fix how many fresh seeds an attempt needs, and how many of them may copy.

        Args:
            attempt: 1 for the first attempt of a prompt.

        Raises:
            MitigationError: attempts count from 1, and only one was declared.
        """
        if attempt < 1 or (self.single and attempt > 1):
            problem = "one attempt was declared" if self.single else "attempts count from 1"
            raise MitigationError(
                f"attempt={attempt}: {problem}. Say before the first attempt how many there may be."
            )
        share = self._share(attempt)
        error = self.delta * share
        seeds = max(self.seeds, seeds_needed(self.alpha, error / self.prompts))
        allowed = copies_allowed(self.alpha, error, seeds)
        return Plan(attempt, self.alpha, self.delta, share, seeds, allowed)


@cache
def copies_allowed(alpha: float, error: float, seeds: int) -> int:
    """Return the largest k for which at most k of n seeds copy with probability <= error.

    A model that copies at a rate of alpha or more passes with probability at most ``error``. It is
    -1 where even no copy is too likely.

    Examples:
        >>> copies_allowed(0.05, 0.025, 72), copies_allowed(0.05, 0.025, 110)
        (0, 1)
    """
    return int((binom.cdf(np.arange(seeds), seeds, alpha) <= error).sum()) - 1


def seeds_needed(alpha: float, error: float) -> int:
    """Return the smallest n for which (1 - alpha)^n <= error.

    A model that copies at a rate of alpha or more passes n seeds without a copy with probability
    at most ``error``.

    Examples:
        >>> seeds_needed(0.05, 0.05), seeds_needed(0.05, 0.025)
        (59, 72)
    """
    seeds = max(1, math.floor(math.log(error) / math.log1p(-alpha)))
    while (1 - alpha) ** seeds > error:
        seeds += 1
    return seeds


@dataclass(frozen=True)
class Copies:
    """How many of some seeds copied.

    Args:
        copies: seeds whose image is a copy.
        seeds: seeds that were generated, at least ``copies``.

    Examples:
        >>> Copies(0, 72).upper(0.975) < 0.05
        True
    """

    copies: int
    seeds: int

    def __post_init__(self) -> None:
        if not 0 <= self.copies <= self.seeds:
            raise MitigationError(f"{self.copies} copies in {self.seeds} seeds: count them again.")

    def __add__(self, other: Copies) -> Copies:
        return Copies(self.copies + other.copies, self.seeds + other.seeds)

    def upper(self, confidence: float) -> float:
        """Return the one-sided upper Clopper-Pearson bound of the copy rate."""
        if self.copies == self.seeds:
            return 1.0
        return float(beta.ppf(confidence, self.copies + 1, self.seeds - self.copies))

    def lower(self, confidence: float) -> float:
        """Return the one-sided lower Clopper-Pearson bound of the copy rate."""
        if self.copies == 0:
            return 0.0
        return float(beta.ppf(1 - confidence, self.copies, self.seeds - self.copies + 1))


def pooled(counts: Sequence[Copies]) -> Copies:
    """Add the copies of several prompts, for one rate over all of them."""
    return sum(counts, Copies(0, 0))


@dataclass(frozen=True)
class Attempt:
    """One attempt to certify one prompt.

    Args:
        plan: what was fixed before.
        counted: what was seen. It may end at a copy too many.
    """

    plan: Plan
    counted: Copies

    @property
    def passed(self) -> bool:
        """Whether the copy rate is certified to lie below the plan's alpha."""
        return self.counted.copies <= self.plan.allowed and self.counted.seeds == self.plan.seeds


def holm(attempts: Sequence[Attempt]) -> tuple[bool, ...]:
    """Tell which prompts are certified all together, by the step-down procedure of Holm (1979).

    The probability that any of these certificates is wrong is at most what the attempt may spend.
    Attempts that one copy too many has ended do not pass.

    Args:
        attempts: one for each prompt, of one plan that was made for so many prompts.

    Examples:
        >>> plan = Certification(single=True, prompts=2).plan(1)
        >>> holm([Attempt(plan, Copies(0, plan.seeds)), Attempt(plan, Copies(1, 5))])
        (True, False)
    """
    chances = [
        float(binom.cdf(attempt.counted.copies, attempt.plan.seeds, attempt.plan.alpha))
        if attempt.passed
        else 1.0
        for attempt in attempts
    ]
    passed = [False] * len(attempts)
    order = sorted(range(len(attempts)), key=chances.__getitem__)
    for left, index in zip(range(len(attempts), 0, -1), order, strict=True):
        plan = attempts[index].plan
        if chances[index] > plan.delta * plan.share / left:
            break
        passed[index] = True
    return tuple(passed)


def fresh_seeds(
    fingerprint: str, prompt: str, attempt: int, count: int, searched: Sequence[int] = ()
) -> tuple[int, ...]:
    """Return seeds for an attempt, which follow from model, prompt and attempt alone.

    Args:
        fingerprint: of the unedited model.
        prompt: the text.
        attempt: 1 for the first.
        count: how many seeds.
        searched: seeds that the search has used. None of them is returned.

    Examples:
        >>> fresh_seeds("abc", "a cat", 1, 2) == fresh_seeds("abc", "a cat", 1, 3)[:2]
        True
    """
    seeds = (derived_seed("fresh", fingerprint, prompt, attempt, number) for number in counter())
    used = set(searched)
    return tuple(islice((seed for seed in seeds if seed not in used), count))


@dataclass(frozen=True)
class Verdict:
    """What is said about a prompt, with the numbers that it rests on.

    Args:
        status: see `verdict`.
        counted: what the last attempt saw; None where nothing was tested.
        plan: what that attempt had fixed.
    """

    status: Status
    counted: Copies | None = None
    plan: Plan | None = None

    @property
    def bound(self) -> float | None:
        """The upper bound of the copy rate under the edit, at the confidence of the attempt.

        So it holds at the confidence of the whole search, whichever of its edits was chosen. None
        where nothing was tested.
        """
        if self.counted is None or self.plan is None:
            return None
        return self.counted.upper(self.plan.confidence)

    def __str__(self) -> str:
        if self.counted is None or self.plan is None or self.bound is None:
            return self.status
        counts = f"{self.counted.copies} of {self.counted.seeds}"
        if self.status != "removed":
            return f"{self.status} ({counts})"
        level = f"at most {percent_up(self.bound)} at {_percent(self.plan.confidence)} %"
        if self.plan.share == 1:
            return f"removed ({counts}, {level})"
        return f"removed ({counts}, {level}; whole search {_percent(1 - self.plan.delta)} %)"


def verdict(
    before: Copies | None, attempt: Attempt | None, *, confirmed: bool, confidence: float = 0.95
) -> Verdict:
    """Judge a prompt in the words of docs/method.md.

    Args:
        before: what the unedited model did; None where it was not looked at.
        attempt: the last attempt to certify the exported edit; None without one.
        confirmed: whether the unedited generations show that the prompt is memorized.
        confidence: of the lower bound before the edit, which a reduction needs.

    Returns:
        "removed" if the attempt passed; "reduced" if the upper bound after it lies below the lower
        bound before it; else "not removed", also where no edit was found. "not confirmed" and "not
        tested" say what is missing.

    The edit is the best of those that were tested, so a bound at the confidence of the whole search
    would be too low more often than it promises. Attempts share the error of the search among
    them, so a bound at the confidence of its own attempt keeps that promise.

    Examples:
        >>> attempt = Attempt(Certification().plan(1), Copies(0, 72))
        >>> print(verdict(Copies(10, 10), attempt, confirmed=True))
        removed (0 of 72, at most 5.0 % at 97.5 %; whole search 95 %)
    """
    if before is None:
        return Verdict("not tested")
    if not confirmed:
        return Verdict("not confirmed")
    if attempt is None:
        return Verdict("not removed")
    counted, plan = attempt.counted, attempt.plan
    if attempt.passed:
        return Verdict("removed", counted, plan)
    reduced = counted.upper(plan.confidence) < before.lower(confidence)
    return Verdict("reduced" if reduced else "not removed", counted, plan)


def _percent(share: float) -> str:
    """Round a confidence down, so that what is printed is true."""
    return f"{math.floor(10_000 * share + 1e-6) / 100:g}"


def percent_up(bound: float) -> str:
    """Print an upper bound of a rate, rounded up, so that what is printed is true.

    Examples:
        >>> percent_up(0.0421)
        '4.3 %'
    """
    return f"{math.ceil(1000 * bound - 1e-9) / 10:.1f} %"
