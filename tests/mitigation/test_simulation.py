"""Certificates under simulated searches: how often is a wrong one given?

Each simulated search climbs rungs of known copy rates on search seeds, certifies the first that
passes on fresh seeds, and climbs further where that fails. A certificate is wrong where the copy
rate of its rung is above alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from unmemorize.mitigation import (
    LADDER,
    Candidate,
    Certification,
    Copies,
    Findings,
    candidates,
    certify,
    climb,
    fresh_seeds,
    holm,
)
from unmemorize.neurons import Neurons

SEARCHES = 2000
ALPHA = 0.05
SEARCH_SEEDS = range(5)
ATTEMPTS = 6
FINDINGS = Findings(("a",), {"complete": Neurons({"a": [1]}), "initial": Neurons({"a": [2]})})
RUNGS = list(candidates(FINDINGS, LADDER))


def copied(seeds: Sequence[int], rate: float, index: int) -> bool:
    """Whether a seed copies. Seeds are uniform, so the share of those that do is the rate."""
    return seeds[index] < rate * 2**63


def is_wrong(search: int, rates: Sequence[float], rules: Sequence[Certification]) -> bool:
    """Run one search of the real functions. A seed copies with the rate of its rung."""
    generator = np.random.default_rng(search)
    rate_of = {candidate.rung.name: rate for candidate, rate in zip(RUNGS, rates, strict=True)}

    def is_copy(candidate: Candidate, _seed: int) -> bool:
        return bool(generator.random() < rate_of[candidate.rung.name])

    passing = (rung for rung in climb(RUNGS, SEARCH_SEEDS, is_copy) if rung.passed)
    for number, (plan, climbed) in enumerate(zip(rules, passing, strict=False), 1):
        rate = rate_of[climbed.candidate.rung.name]
        attempt = number if not plan.single else 1
        fixed = PLANS[plan, attempt]
        seeds = fresh_seeds("model", f"prompt {search}", number, fixed.seeds)
        if certify(fixed, partial(copied, seeds, rate)).passed:
            return rate > ALPHA
    return False


HALVING = Certification()
SINGLE = Certification(single=True)
PLANS = {
    **{(HALVING, attempt): HALVING.plan(attempt) for attempt in range(1, ATTEMPTS + 1)},
    (SINGLE, 1): SINGLE.plan(1),
}


def lower_bound(wrong: Sequence[bool]) -> float:
    return Copies(sum(wrong), len(wrong)).lower(0.99)


def test_rungs_that_all_copy_a_little_too_often() -> None:
    rates = [0.0501] * len(RUNGS)
    wrong = [is_wrong(search, rates, [HALVING] * ATTEMPTS) for search in range(SEARCHES)]
    assert sum(wrong) > 0
    assert lower_bound(wrong) <= 0.05


def test_mixed_rungs() -> None:
    wrong = []
    for search in range(SEARCHES):
        rates = np.random.default_rng(10_000 + search).choice([0.0, 0.02, 0.06, 0.2], len(RUNGS))
        wrong.append(is_wrong(search, rates.tolist(), [HALVING] * ATTEMPTS))
    assert sum(wrong) > 0
    assert lower_bound(wrong) <= 0.05


def test_the_simulation_finds_rules_that_spend_too_much() -> None:
    """As if each attempt were the only one that was declared: 0 of 59, again and again."""
    rates = [0.0501] * len(RUNGS)
    wrong = [is_wrong(search, rates, [SINGLE] * ATTEMPTS) for search in range(SEARCHES // 4)]
    assert lower_bound(wrong) > 0.05


def test_all_prompts_together() -> None:
    """The chance that any of 34 prompts gets a wrong certificate, by Holm's procedure."""
    plan = Certification(single=True, prompts=34).plan(1)
    generator = np.random.default_rng(0)
    any_wrong = []
    for family in range(300):
        rates = [0.0501] * 17 + [0.0] * 17
        attempts = []
        for rate in rates:
            seeds = generator.integers(0, 2**63, plan.seeds).tolist()
            attempts.append(certify(plan, partial(copied, seeds, rate)))
        certified = holm(attempts)
        assert all(certified[17:]), family
        any_wrong.append(any(certified[:17]))
    assert lower_bound(any_wrong) <= 0.05
    assert sum(any_wrong) > 0
