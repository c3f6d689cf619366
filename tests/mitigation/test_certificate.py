from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from unmemorize import MitigationError
from unmemorize.mitigation._certificate import (
    Attempt,
    Certification,
    Copies,
    fresh_seeds,
    holm,
    pooled,
    seeds_needed,
    verdict,
)


def at_most(copies: int, seeds: int, rate: Fraction) -> Fraction:
    """P(X <= copies) of a binomial, in exact fractions."""
    return sum(
        (comb(seeds, k) * rate**k * (1 - rate) ** (seeds - k) for k in range(copies + 1)),
        Fraction(0),
    )


QUICK = Certification(alpha=0.26, single=True)


@pytest.mark.parametrize(
    ("rules", "seeds"),
    [
        (Certification(), [72, 86, 99]),
        (Certification(single=True), [59]),
        (Certification(single=True, prompts=34), [128]),
        (Certification(alpha=0.01), [368, 437]),
        (QUICK, [10]),
    ],
)
def test_seeds_are_fixed_before(rules: Certification, seeds: list[int]) -> None:
    for attempt, expected in enumerate(seeds, 1):
        plan = rules.plan(attempt)
        assert plan.seeds == expected
        error = Fraction(str(rules.delta)) * (1 if rules.single else Fraction(1, 2**attempt))
        rate = Fraction(str(rules.alpha))
        assert at_most(0, expected, rate) <= error / rules.prompts
        assert at_most(0, expected - 1, rate) > error / rules.prompts
        assert at_most(plan.allowed, expected, rate) <= error
        assert at_most(plan.allowed + 1, expected, rate) > error
        assert plan.confidence == pytest.approx(float(1 - error))


def test_more_seeds_than_the_fewest() -> None:
    rules = Certification(seeds=200)
    for attempt in range(1, 5):
        plan = rules.plan(attempt)
        assert plan.seeds == 200
        assert plan.allowed > 0
        error = Fraction(5, 100) / 2**attempt
        assert at_most(plan.allowed, 200, Fraction(5, 100)) <= error
        assert at_most(plan.allowed + 1, 200, Fraction(5, 100)) > error
    # a later attempt takes what it needs
    assert [Certification(seeds=80).plan(attempt).seeds for attempt in (1, 2, 3)] == [80, 86, 99]


def test_all_attempts_together_spend_less_than_delta() -> None:
    plans = [Certification().plan(attempt) for attempt in range(1, 9)]
    chances = [at_most(plan.allowed, plan.seeds, Fraction("0.05")) for plan in plans]
    assert 0.045 < sum(chances) < 0.05


def test_an_attempt_that_was_not_declared_is_refused() -> None:
    with pytest.raises(MitigationError, match="one attempt was declared"):
        Certification(single=True).plan(2)
    with pytest.raises(MitigationError, match="count from 1"):
        Certification().plan(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha=0.0: a rate"),
        ({"delta": 1.0}, "delta=1.0: a rate"),
        ({"prompts": 0}, "prompts=0"),
        ({"seeds": -1}, "seeds=-1"),
        ({"seeds": 71}, "seeds=71: the first attempt needs at least 72"),
        ({"seeds": 127, "single": True, "prompts": 34}, "at least 128"),
        ({"seeds": 9, "single": True, "alpha": 0.26}, "at least 10"),
        ({"alpha": "5 %"}, "alpha='5 %': expected `float`"),
        ({"seeds": 72.5}, "seeds=72.5: expected `int`"),
    ],
)
def test_rules_that_make_no_sense(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(MitigationError, match=message):
        Certification(**arguments)  # type: ignore[arg-type]


def test_an_attempt_passes_when_all_of_its_seeds_were_seen() -> None:
    plan = Certification().plan(1)
    counts = [Copies(0, 72), Copies(0, 71), Copies(1, 72), Copies(1, 4)]
    assert [Attempt(plan, each).passed for each in counts] == [True, False, False, False]
    tolerant = Certification(single=True, prompts=34).plan(1)
    assert [Attempt(tolerant, Copies(copies, 128)).passed for copies in (2, 3)] == [True, False]


def test_the_bounds_are_those_of_clopper_and_pearson() -> None:
    """At a bound, what was seen or more extreme has exactly the probability that is left."""
    counted = Copies(3, 20)
    upper, lower = (Fraction(bound(0.95)) for bound in (counted.upper, counted.lower))
    assert float(at_most(3, 20, upper)) == pytest.approx(0.05)
    assert float(1 - at_most(2, 20, lower)) == pytest.approx(0.05)
    assert (Copies(5, 5).upper(0.95), Copies(0, 5).lower(0.95)) == (1.0, 0.0)
    assert (Copies(0, 0).upper(0.95), Copies(0, 0).lower(0.95)) == (1.0, 0.0)


def test_copies_are_pooled_over_prompts() -> None:
    assert pooled([Copies(1, 4), Copies(0, 72)]) == Copies(1, 76)
    assert pooled([]) == Copies(0, 0)
    with pytest.raises(MitigationError, match="3 copies in 2 seeds"):
        Copies(3, 2)


def test_holm_judges_all_prompts_together() -> None:
    plan = Certification(single=True, prompts=3).plan(1)
    rate, n = Fraction("0.05"), plan.seeds
    assert (n, plan.allowed) == (80, 0)
    clean, failed = Attempt(plan, Copies(0, n)), Attempt(plan, Copies(1, 2))
    assert holm([clean, failed, clean]) == (True, False, True)
    assert holm([]) == ()
    many = Certification(single=True, prompts=34).plan(1)
    none, one, two = (Attempt(many, Copies(copies, 128)) for copies in range(3))
    assert [at_most(copies, 128, rate) < Fraction("0.05") for copies in (1, 2)] == [True, True]
    # 1 of 128 has the chance .011: enough where at most 4 are left, not where 5 are
    assert holm([one, *[none] * 33]) == (True,) * 34
    assert holm([*[one] * 4, *[none] * 30]) == (True,) * 34
    assert holm([*[one] * 5, *[none] * 29]) == (*[False] * 5, *[True] * 29)
    assert holm([two, one, *[none] * 32]) == (True,) * 34


def test_fresh_seeds_follow_from_model_prompt_and_attempt() -> None:
    seeds = fresh_seeds("abc", "a cat", 1, 72)
    assert fresh_seeds("abc", "a cat", 1, 10) == seeds[:10]
    assert len(set(seeds)) == 72
    assert all(0 <= seed < 2**63 for seed in seeds)
    others = [("abd", "a cat", 1), ("abc", "a dog", 1), ("abc", "a cat", 2)]
    assert not any(set(seeds) & set(fresh_seeds(*other, 72)) for other in others)


def test_seeds_of_the_search_are_never_fresh() -> None:
    plain = fresh_seeds("abc", "a cat", 1, 12)
    searched = (plain[0], plain[4], 2, 7)
    fresh = fresh_seeds("abc", "a cat", 1, 10, searched)
    assert fresh == tuple(seed for seed in plain if seed not in searched)


def attempt_of(copies: int, seeds: int, number: int = 1) -> Attempt:
    return Attempt(Certification().plan(number), Copies(copies, seeds))


def test_verdicts_have_the_words_of_the_method() -> None:
    before = Copies(10, 10)
    assert {
        str(verdict(before, attempt_of(0, 72), confirmed=True)),
        str(verdict(before, attempt_of(0, 86, 2), confirmed=True)),
        str(verdict(before, attempt_of(0, 99, 3), confirmed=True)),  # 99.375 %, and not 99.38
        str(verdict(before, Attempt(QUICK.plan(1), Copies(0, 10)), confirmed=True)),
        str(verdict(before, attempt_of(1, 5), confirmed=True)),
        str(verdict(before, attempt_of(1, 2), confirmed=True)),
        str(verdict(Copies(1, 10), attempt_of(0, 72), confirmed=False)),
        str(verdict(before, None, confirmed=True)),  # no edit was found
        str(verdict(None, None, confirmed=False)),
    } == {
        "removed (0 of 72, at most 5.0 % at 97.5 %; whole search 95 %)",
        "removed (0 of 86, at most 5.0 % at 98.75 %; whole search 95 %)",
        "removed (0 of 99, at most 5.0 % at 99.37 %; whole search 95 %)",
        "removed (0 of 10, at most 25.9 % at 95 %)",
        "reduced (1 of 5)",
        "not removed (1 of 2)",
        "not removed",
        "not confirmed",
        "not tested",
    }


def test_a_reduction_needs_bounds_that_do_not_meet() -> None:
    """Upper bound of 1 of 5 at 97.5 %: .716. Lower bounds: 9 of 10 .606, 10 of 10 .741.

    At 95 % it would be .657. At 99.6875 %, that of the fourth attempt, it is .836.
    """
    assert verdict(Copies(9, 10), attempt_of(1, 5), confirmed=True).status == "not removed"
    assert verdict(Copies(10, 10), attempt_of(1, 5), confirmed=True).status == "reduced"
    fourth = verdict(Copies(10, 10), attempt_of(1, 5, 4), confirmed=True)
    assert fourth.status == "not removed"
    assert fourth.bound is not None
    assert float(at_most(1, 5, Fraction(fourth.bound))) == pytest.approx(0.05 / 2**4)


def test_the_bound_is_that_of_clopper_and_pearson_at_the_confidence_of_the_attempt() -> None:
    removed = verdict(Copies(10, 10), attempt_of(0, 86, 2), confirmed=True)
    assert removed.bound == pytest.approx(1 - 0.0125 ** (1 / 86))  # the share of the second attempt
    reduced = verdict(Copies(10, 10), attempt_of(1, 50), confirmed=True)
    assert reduced.bound is not None
    assert float(at_most(1, 50, Fraction(reduced.bound))) == pytest.approx(0.025)
    assert verdict(None, None, confirmed=False).bound is None


def test_few_seeds_need_a_higher_rate() -> None:
    assert seeds_needed(0.5, 0.5) == 1
    assert seeds_needed(0.9, 0.5) == 1
