"""Certificates under simulated searches: how often is a wrong one given?

Each simulated search is one of the real functions over edits of known copy rates. A certificate is
wrong where the copy rate of its edit is above alpha.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from unmemorize import Neurons
from unmemorize.generation import ClosedFormEdit, Edit, Erased
from unmemorize.mitigation._certificate import (
    Attempt,
    Certification,
    Copies,
    Plan,
    holm,
    verdict,
)
from unmemorize.mitigation._guides import Guide
from unmemorize.mitigation._ladders import LADDERS, Findings, joint_edit
from unmemorize.mitigation._search import Candidate, certify_joint, search, strengthened
from unmemorize.mitigation._settings import Part

SEARCHES = 2000
ALPHA = 0.05
SEARCH_SEEDS = 5
FINDINGS = {
    0: Findings(
        "a",
        {
            "complete": Neurons({"a": [1]}),
            "initial": Neurons({"a": [2]}),
            "all": Neurons({"a": [3]}),
        },
        trainable=True,
        guide=Guide("start", "b"),
    )
}


def teach(_part: Part, erased: tuple[Erased, ...]) -> Edit:
    """Return an edit of its own for each training."""
    return ClosedFormEdit(erased, ("trained",))


EDITS: dict[Edit, int] = {}
for _ladder in LADDERS.values():
    for _rung in _ladder:
        _edit = joint_edit({0: _rung}, FINDINGS, (), teach)
        assert _edit is not None
        EDITS.setdefault(_edit, len(EDITS))


class Simulated:
    """A model that copies at a known rate under each edit.

    Args:
        number: of the search; it seeds the draws.
        rates: of each of `EDITS`.
    """

    def __init__(self, number: int, rates: Sequence[float]) -> None:
        self._generator = np.random.default_rng(number)
        self._rates = rates

    def rate(self, edit: Edit) -> float:
        return self._rates[EDITS[edit]]

    def look(self, edit: Edit, indices: Sequence[int]) -> Mapping[int, float]:
        copies = self._generator.random(SEARCH_SEEDS) < self.rate(edit)
        return dict.fromkeys(indices, copies.mean()) if copies.any() else {}

    def count(self, edit: Edit, plan: Plan, indices: Sequence[int]) -> Mapping[int, Copies]:
        assert list(indices) == [0]
        copies = self._generator.random(plan.seeds) < self.rate(edit)
        found = np.flatnonzero(copies)
        end = plan.allowed + 1  # the second copy too many ends it
        until = int(found[end]) + 1 if len(found) > end else plan.seeds
        return {0: Copies(int(copies[:until].sum()), until)}

    def strengthen(self, candidate: Candidate, failed: Collection[int]) -> Candidate | None:
        return strengthened(candidate, failed, FINDINGS, (), teach)


def is_wrong(number: int, rates: Sequence[float], rules: Certification) -> bool:
    """Run one search and tell whether it certifies an edit that copies too often."""
    certified = certified_rate(number, rates, rules)
    return certified is not None and certified > ALPHA


def certified_rate(number: int, rates: Sequence[float], rules: Certification) -> float | None:
    """Run one search and return the copy rate of the edit that it certifies, if any."""
    model = Simulated(number, rates)
    best = min(search(FINDINGS, (), model.look, teach=teach), key=lambda found: len(found.copying))
    candidate, attempts = certify_joint(best, rules, model.count, model.strengthen)
    return model.rate(candidate.edit) if attempts[0].passed else None


def lower_bound(wrong: Sequence[bool]) -> float:
    """The one-sided 99 % Clopper-Pearson bound of the share of wrong certificates."""
    return Copies(sum(wrong), len(wrong)).lower(0.99)


RULES = Certification()


@pytest.mark.parametrize("rules", [RULES, Certification(seeds=200)])
def test_edits_that_all_copy_a_little_too_often(rules: Certification) -> None:
    rates = [0.0501] * len(EDITS)
    wrong = [is_wrong(number, rates, rules) for number in range(SEARCHES)]
    assert sum(wrong) > 0
    assert lower_bound(wrong) <= 0.05


def test_more_images_pass_an_edit_that_copies_seldom() -> None:
    rates = [0.01] * len(EDITS)
    passed = [
        sum(certified_rate(number, rates, rules) is not None for number in range(SEARCHES // 10))
        for rules in (RULES, Certification(seeds=200))
    ]
    assert passed[1] > passed[0]


def test_mixed_edits() -> None:
    draws = np.random.default_rng(1).choice([0.0, 0.02, 0.06, 0.2], (SEARCHES, len(EDITS)))
    wrong = [is_wrong(number, rates.tolist(), RULES) for number, rates in enumerate(draws)]
    assert sum(wrong) > 0
    assert lower_bound(wrong) <= 0.05


class Spendthrift(Certification):
    """Takes each attempt for the only one that was declared: 0 of 59, again and again."""

    def plan(self, attempt: int) -> Plan:
        return Certification(single=True).plan(1) if attempt else super().plan(attempt)


def test_the_simulation_finds_rules_that_spend_too_much() -> None:
    rates = [0.0501] * len(EDITS)
    wrong = [is_wrong(number, rates, Spendthrift()) for number in range(SEARCHES)]
    assert lower_bound(wrong) > 0.05


def bound_of_the_best(number: int, rate: float) -> float:
    """Test up to four edits that all copy at one rate, and return the bound of the best one."""
    generator, edits, seen = np.random.default_rng(number), list(EDITS), {}

    def count(edit: Edit, plan: Plan, indices: Sequence[int]) -> Mapping[int, Copies]:
        seen[edit, plan] = generator.random(plan.seeds) < rate
        found = np.flatnonzero(seen[edit, plan])
        until = int(found[1]) + 1 if len(found) > 1 else plan.seeds
        return {0: Copies(int(seen[edit, plan][:until].sum()), until)}

    def strengthen(candidate: Candidate, failed: Collection[int]) -> Candidate | None:
        return replace(candidate, edit=edits[edits.index(candidate.edit) + 1])

    rungs = {0: LADDERS["both"][0]}
    candidate, attempts = certify_joint(
        Candidate("both", rungs, edits[0], ()), RULES, count, strengthen
    )
    plan = attempts[0].plan
    counted = Copies(int(seen[candidate.edit, plan].sum()), plan.seeds)  # all of its seeds
    bound = verdict(Copies(10, 10), Attempt(plan, counted), confirmed=True).bound
    assert bound is not None
    return bound


@pytest.mark.parametrize("rate", [0.08, 0.15, 0.3])
def test_the_bound_of_the_best_of_several_edits_holds(rate: float) -> None:
    wrong = [bound_of_the_best(number, rate) < rate for number in range(SEARCHES)]
    assert sum(wrong) > 0
    assert lower_bound(wrong) <= 0.05


def test_all_prompts_together() -> None:
    """The chance that any of 34 prompts gets a wrong certificate, by Holm's procedure."""
    plan = Certification(single=True, prompts=34).plan(1)
    generator = np.random.default_rng(0)
    any_wrong = []
    for family in range(300):
        attempts = []
        for rate in [0.0501] * 17 + [0.0] * 17:
            copies = generator.random(plan.seeds) < rate
            until = int(copies.argmax()) + 1 if copies.any() else plan.seeds
            attempts.append(Attempt(plan, Copies(int(copies[:until].sum()), until)))
        certified = holm(attempts)
        assert all(certified[17:]), family
        any_wrong.append(any(certified[:17]))
    assert lower_bound(any_wrong) <= 0.05
    assert sum(any_wrong) > 0
