"""What few images can show is said before the work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from unmemorize import Prompt
from unmemorize.audit import AuditInputs, AuditSettings, ImageScores, Twin, reach_in_words
from unmemorize.audit._settings import ArmName
from unmemorize.audit._verdicts import compared, worded

MODEL: Any = None
QUICK = AuditSettings.quick()
BUDGETS = (0, 5, 10, 25)


def given(images: int, controls: int) -> AuditInputs:
    """The inputs of an audit against so many controls, or against a twin where there are none."""
    files = tuple(Path(f"{number}.png") for number in range(controls))
    twins = () if controls else (Twin(MODEL, tuple(range(images))),)
    return AuditInputs(edit=None, captions=("a",), descriptor=MODEL, controls=files, twins=twins)


def prompts(count: int, kind: Literal["VM", "TM"] = "VM") -> list[Prompt]:
    return [Prompt(f"{number}", kind) for number in range(count)]


def scores(count: int, *course: float) -> list[ImageScores]:
    return [
        ImageScores(number, "", "image", BUDGETS, course, course, BUDGETS, "")
        for number in range(count)
    ]


def best_verdict(images: int, controls: int) -> str:
    """Return the words where every image is back and no never-trained one is: L0 and L4, quick."""
    arms: dict[ArmName, list[ImageScores]] = {
        "edited": scores(images, 0.9, 0.95, 0.96, 0.97),
        "never-trained": scores(controls or images, 0.1, 0.1, 0.1, 0.1),
    }
    paired = not controls
    family = [
        compared(attack, place, arms, paired=paired, alpha=0.05, delta=0.1)
        for attack, place in (("L0", 0), *(("L4", place) for place in range(4)))
    ]
    return worded(family, 0.05, 0.1)[-1].verdict


@pytest.mark.parametrize(
    ("images", "controls"),
    [(1, 0), (6, 0), (7, 0), (14, 0), (1, 24), (1, 98), (1, 99), (2, 24)],
)
def test_there_is_a_warning_exactly_where_nothing_can_be_found(images: int, controls: int) -> None:
    warning = reach_in_words(QUICK, given(images, controls), prompts(images))
    assert bool(warning) == (not best_verdict(images, controls).startswith("cheaper"))


def test_the_warning_counts_the_attacks_and_budgets_that_are_tested() -> None:
    warning = reach_in_words(QUICK, given(5, 0), prompts(5))
    assert "5 images against a twin is 0.031" in warning
    assert "over 5 tests (one for each" in warning  # L5 is not tested
    assert "it is 0.16, and 0.05 is needed" in warning
    only = replace(QUICK, levels=("L0", "L5"))
    assert reach_in_words(only, given(5, 0), prompts(5)) == ""
    usual = AuditSettings()
    count = 1 + 12 + 8 + 19 * 8 + 8 + 8  # L0, L1, L2, L3, L4, L6
    assert f"over {count} tests" in reach_in_words(usual, given(5, 9), prompts(1))
    assert f"over {count + 8} tests" in reach_in_words(usual, given(5, 0), prompts(5))  # imageless


@pytest.mark.parametrize("kind", ["VM", "TM"])
def test_templates_count_like_other_images(kind: Literal["VM", "TM"]) -> None:
    for controls in (0, 24):
        assert reach_in_words(QUICK, given(9, controls), prompts(9, kind)) == ""


def test_without_never_trained_images_there_is_nothing_to_warn_of() -> None:
    none = replace(given(1, 1), controls=())
    assert reach_in_words(QUICK, none, prompts(1)) == ""
    assert reach_in_words(replace(QUICK, arms=("edited",)), given(1, 1), prompts(1)) == ""
