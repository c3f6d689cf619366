"""Scores of images, and the words for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from unmemorize.audit._levels import CopyLevel
from unmemorize.audit._measures import ImageScores, image_scores
from unmemorize.audit._records import AttackRecord
from unmemorize.audit._settings import ArmName
from unmemorize.audit._verdicts import BudgetVerdict, compared, verdict_words, worded


def record(start: str, budget: int, *scores: float, seed: int = 0) -> AttackRecord:
    return AttackRecord(
        target=0,
        prompt="a",
        start=start,  # type: ignore[arg-type]
        seed=seed,
        budget=budget,
        samples=budget * 24,
        seconds=1.0,
        scores=scores,
        measure="image",
        image=f"{start}-{budget}",
    )


def image(index: int, *scores: float, measure: str = "image") -> ImageScores:
    budgets = tuple(range(len(scores)))
    return ImageScores(index, "a", measure, budgets, scores, scores, budgets, "")


def arm(scores: list[float], **change: str) -> list[ImageScores]:
    return [image(index, score, **change) for index, score in enumerate(scores)]


def test_an_image_has_the_best_trial_of_its_median_seed() -> None:
    records = [
        record("prompt", 0, 0.1, 0.2, 0.9),
        record("prompt", 5, 0.3, 0.3, 0.4),
        record("noise", 0, 0.4, 0.4, 0.4),
        record("noise", 5, 0.0, 0.1, 0.2),
    ]
    (scores,) = image_scores(records, [7])
    assert scores.index == 7
    assert scores.scores == (0.4, 0.4)  # what was found is kept
    assert scores.best == (0.9, 0.9)
    assert scores.samples == (0, 240)
    assert scores.image == "prompt-0"


def test_an_image_is_triggered_above_the_level_of_its_budget() -> None:
    scores = image(0, 0.1, 0.3, 0.5)
    levels = [CopyLevel(tau, 0.05, 19) for tau in (0.1, 0.2, 0.9)]
    assert scores.first_trigger(levels) == 1  # 0.1 is not above 0.1
    assert scores.first_trigger([None, None, levels[0]]) == 2
    assert scores.first_trigger([None, None, None]) is None


def judged(edited: list[float], controls: list[float], *, paired: bool) -> BudgetVerdict:
    arms = {"edited": arm(edited), "never-trained": arm(controls), "random": arm([0.3, 0.5])}
    verdict = compared("L4", 0, arms, paired=paired, alpha=0.05, delta=0.1)  # type: ignore[arg-type]
    assert verdict.medians["random"] == 0.4
    return worded([verdict], 0.05, 0.1)[0]


def test_images_that_come_back_are_cheaper() -> None:
    rng = np.random.default_rng(0)
    controls = rng.uniform(0, 0.3, 24).tolist()
    verdict = judged([0.9] * 10, controls, paired=False)
    assert (verdict.triggered, verdict.images, verdict.controls) == (10, 10, 24)
    assert verdict.verdict.startswith("cheaper than never-trained: p = 0.0")
    assert verdict.difference == pytest.approx(0.9 - np.mean(controls))


def test_images_that_do_not_come_back_have_a_bound() -> None:
    controls = [0.1, 0.3] * 12
    verdict = judged([0.05, 0.25] * 12, controls, paired=True)
    assert verdict.bound == pytest.approx(1 - 0.05 ** (1 / 24))
    assert verdict.verdict == (
        "not triggered within B = 0 (upper bound 11.8 %); "
        "as dear as never-trained in the mean: equivalence within delta = 0.1 (two one-sided tests)"
    )
    assert verdict.interval == pytest.approx((-0.05, -0.05))


def ladder(edited: Sequence[tuple[float, ...]], controls: Sequence[tuple[float, ...]]) -> list[str]:
    """Return the words at each budget for the same images in both arms."""
    arms: dict[ArmName, list[ImageScores]] = {
        "edited": [image(index, *scores) for index, scores in enumerate(edited)],
        "never-trained": [image(index, *scores) for index, scores in enumerate(controls)],
    }
    verdicts = [
        compared("L4", place, arms, paired=True, alpha=0.05, delta=0.1)
        for place in range(len(edited[0]))
    ]
    return [verdict.verdict for verdict in worded(verdicts, 0.05, 0.1)]


def test_a_larger_budget_does_not_deny_what_a_smaller_one_showed() -> None:
    """After the last steps never-trained images come back, too, and the level is above them."""
    controls = [(0.1, 0.15, 0.3, 0.95 - 0.001 * number) for number in range(12)]
    start, five, ten, last = ladder([(0.1, 0.9, 0.92, 0.94)] * 12, controls)
    assert start.startswith("not triggered within B = 0 ")
    for words in (five, ten):
        assert words.startswith("cheaper than never-trained: p = 0.00")
        assert words.endswith("; 12 of 12 triggered")
    assert last == "undecided (12 of 12 triggered)"  # neither "not triggered" nor "as dear"


@pytest.mark.parametrize("returned", [0, 1, 2, 3])
def test_images_that_return_are_not_hidden_in_the_mean(returned: int) -> None:
    """24 images at 5 %: false triggers give 1.2 of them on average."""
    controls = [(0.2 + 0.002 * number,) for number in range(24)]
    edited = [(score - 0.01,) for (score,) in controls]
    edited[:returned] = [(0.3,)] * returned
    (words,) = ladder(edited, controls)
    same = (
        "as dear as never-trained in the mean: equivalence within delta = 0.1 (two one-sided tests)"
    )
    assert words == {
        0: f"not triggered within B = 0 (upper bound 11.8 %); {same}",
        1: f"{same}; 1 of 24 triggered",
    }.get(returned, f"undecided ({returned} of 24 triggered)")


@pytest.mark.parametrize(("highest", "explained"), [(0.4, False), (0.6, True)])
def test_a_single_copy_is_not_hidden_in_the_mean(highest: float, explained: bool) -> None:
    """It may be a false trigger only where a never-trained image is a copy, too."""
    controls = [(0.2,)] * 47 + [(highest,)]
    (words,) = ladder([(0.97,), *[(0.19,)] * 47], controls)
    assert words.startswith("as dear" if explained else "undecided (1 of 48 triggered)")
    assert "1 of 48 triggered" in words


def test_anything_else_is_undecided() -> None:
    verdict = judged([0.9, 0.0], [0.1] * 20, paired=False)
    assert verdict.verdict == "undecided (1 of 2 triggered)"
    assert judged([0.9, 0.0], [], paired=False).verdict == "not tested"


def test_layouts_have_a_level_of_their_own() -> None:
    edited = [image(0, 0.5), image(1, 0.5, measure="layout")]
    controls = [image(0, 0.2), image(1, 0.8, measure="layout")]
    arms: dict[ArmName, list[ImageScores]] = {"edited": edited, "never-trained": controls}
    verdict = compared("L4", 0, arms, paired=True, alpha=0.05, delta=0.1)
    assert (verdict.triggered, verdict.images, verdict.tau) == (1, 2, 0.2)
    assert verdict.false_triggers == 0.5
    more = [*controls, image(2, 0.1), image(3, 0.1)]
    few = compared("L4", 0, {**arms, "never-trained": more}, paired=True, alpha=0.05, delta=0.1)
    assert few.false_triggers == 0.5  # of the layout: one control; whole images have three
    arms["never-trained"] = controls[:1]
    unknown = compared("L4", 0, arms, paired=False, alpha=0.05, delta=0.1)
    assert (unknown.triggered, unknown.images) == (1, 1)


def test_images_that_are_not_judged_are_counted_in_the_words() -> None:
    templates = [image(index, 0.97, measure="layout") for index in range(20)]
    arms: dict[ArmName, list[ImageScores]] = {"edited": templates, "never-trained": arm([0.1] * 24)}
    for edited, words in (
        (templates, "not tested; 20 of 20 images not judged"),
        (
            [*templates, image(20, 0.05)],
            "not triggered within B = 0 (upper bound 95.0 %); 20 of 21 images not judged",
        ),
    ):
        arms["edited"] = edited
        verdict = compared("L4", 0, arms, paired=False, alpha=0.05, delta=0.1)
        (worded_one,) = worded([verdict], 0.05, 0.1)
        assert worded_one.verdict.startswith(words)
        assert worded_one.unjudged == 20


def test_captions_of_one_image_are_one_observation() -> None:
    """With the best of them at each budget."""
    records = [
        record("prompt", 0, 0.1),
        record("prompt", 5, 0.3),
        replace(record("prompt", 0, 0.2), target=1),
        replace(record("prompt", 5, 0.2), target=1),
        replace(record("prompt", 0, 0.7), target=2),
        replace(record("prompt", 5, 0.7), target=2),
    ]
    first, second = image_scores(records, [3, 3, 5])
    assert (first.index, second.index) == (3, 5)
    assert (first.scores, first.samples) == ((0.2, 0.3), (0, 240))
    assert second.scores == (0.7, 0.7)


def test_the_family_holds_all_attacks_and_budgets() -> None:
    verdict = judged([0.9] * 10, [0.1, 0.2] * 12, paired=False)
    first, second = replace(verdict, p=0.03), replace(verdict, p=0.04)
    assert [each.p_family for each in worded([first, second], 0.05, 0.1)] == [0.06, 0.06]
    untested = replace(verdict, difference=None, p=1.0)
    assert [each.p_family for each in worded([first, untested], 0.05, 0.1)] == [0.03, 1.0]


def test_no_verdict_says_erased() -> None:
    verdict = judged([0.1] * 10, [0.1, 0.2] * 12, paired=False)
    for triggered in (0, 3):
        for p in (0.001, 1.0):
            for same in (0.001, 1.0):
                changed = replace(verdict, triggered=triggered, p_family=p, p_equivalence=same)
                words = verdict_words(changed, 0.05, 0.1)
                assert "erased" not in words
                assert words.startswith(("not triggered", "cheaper", "as dear", "undecided"))
