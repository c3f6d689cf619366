"""Starts of captions: what the detector and the images say of them is known here."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from known_stages import CLOSE, COPY, Known
from unmemorize import Prompt, Threshold, testbed
from unmemorize.mitigation._confirmation import screen_level
from unmemorize.mitigation._copy_test import CopyTest
from unmemorize.mitigation._guides import Guides
from unmemorize.mitigation._starts import find_starts, starts_of

TEXT = "an owl on a navy background, night school emblem"


@pytest.fixture(name="threshold", scope="module")
def threshold_fixture() -> Threshold:
    return Threshold.load(testbed.threshold_path())


def find(
    stages: Known, threshold: Threshold, *texts: str, unconfirmed: Sequence[str] = ()
) -> list[Guides]:
    prompts = {3 * index: Prompt(text) for index, text in enumerate(texts)}
    test = CopyTest("image", 0.5)
    known: Any = {
        index: SimpleNamespace(test=test, confirmed=text.text not in unconfirmed)
        for index, text in prompts.items()
    }
    stand_in: Any = stages
    return list(find_starts(stand_in, prompts, known, threshold).values())


def test_a_start_ends_with_a_word_and_is_no_whole() -> None:
    assert starts_of("a cat") == ["a"]
    assert starts_of("one") == starts_of("") == []
    assert starts_of("a  cat , sat: down.") == ["a", "a cat", "a cat , sat"]


def test_the_longest_start_that_the_screen_clears(threshold: Threshold) -> None:
    level = screen_level(threshold)
    called = [f"an owl on a navy background, {rest}" for rest in ("night", "night school")]
    stages = Known(level, called)
    whole = "an owl on a navy background"
    assert find(stages, threshold, TEXT) == [{"start": whole}]
    assert stages.drawn == [("start-1", [whole])]
    assert len(set(stages.seeds[0])) == 4


def test_a_start_whose_images_are_copies_gives_way_to_a_shorter_one(threshold: Threshold) -> None:
    level = screen_level(threshold)
    stages = Known(level, means={"a red door on": COPY, "a red door": COPY})
    found = find(stages, threshold, "a red door on a", "two cats")
    assert found == [{"start": "a red"}, {"start": "two"}]
    assert stages.drawn == [
        ("start-1", ["a red door on", "two"]),
        ("start-2", ["a red door"]),
        ("start-3", ["a red"]),
    ]
    assert len(set(stages.seeds)) == 4


def test_a_start_gives_way_whose_images_are_no_copies_but_almost(threshold: Threshold) -> None:
    stages = Known(screen_level(threshold), means={"a red door": CLOSE, "two": CLOSE})
    assert find(stages, threshold, "a red door on", "two cats") == [{"start": "a red"}, {}]
    assert stages.drawn == [("start-1", ["a red door", "two"]), ("start-2", ["a red"])]


def test_so_many_starts_are_drawn_at_most(threshold: Threshold) -> None:
    text = "a b c d e f g h i"
    stages = Known(screen_level(threshold), means=dict.fromkeys(starts_of(text)[2:], COPY))
    assert find(stages, threshold, text) == [{}]
    assert [texts for _, texts in stages.drawn] == [[each] for each in starts_of(text)[:1:-1]]


def test_captions_of_which_no_start_is_left(threshold: Threshold) -> None:
    level = screen_level(threshold)
    stages = Known(level, called=["a", "a b"], means={"the": COPY})
    assert find(stages, threshold, "a b c", "word", "the end") == [{}, {}, {}]
    assert [texts for _, texts in stages.drawn] == [["the"]]


def test_starts_keep_their_numbers_whichever_prompts_are_memorized(threshold: Threshold) -> None:
    """Else a prompt that is confirmed later would be given what was said of another start."""
    stages = Known(screen_level(threshold))
    find(stages, threshold, "a b", "c d e", unconfirmed=["a b"])
    assert stages.scored == {1: "c", 2: "c d"}
    find(stages, threshold, "a b", "c d e")
    assert stages.scored == {0: "a", 1: "c", 2: "c d"}
