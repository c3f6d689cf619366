"""What captions may be read like: what detector, images and likeness say of them is known here."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from known_stages import CLOSE, COPY, Known
from records import SMALL_MITIGATION
from unmemorize import Prompt, RunError, Threshold, testbed
from unmemorize.mitigation import _guides
from unmemorize.mitigation._confirmation import screen_level
from unmemorize.mitigation._copy_test import CopyTest
from unmemorize.mitigation._guides import Guide, find_guides
from unmemorize.mitigation._starts import starts_of

MOST = SMALL_MITIGATION.guides
TEXT = "an owl on a navy background, night school emblem"


@pytest.fixture(name="threshold", scope="module")
def threshold_fixture() -> Threshold:
    return Threshold.load(testbed.threshold_path())


@pytest.fixture(name="level", scope="module")
def level_fixture(threshold: Threshold) -> float:
    return screen_level(threshold)


def by_length(_stages: Any, texts: Sequence[str], captions: Sequence[str]) -> Tensor:
    """Captions are as far from each other as their lengths."""
    far = [[abs(len(text) - len(caption)) for caption in captions] for text in texts]
    return torch.tensor(far, dtype=torch.float32).reshape(len(texts), len(captions))


@pytest.fixture(autouse=True)
def known_likeness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_guides, "distances", by_length)


def find(
    stages: Known,
    threshold: Threshold,
    *texts: str,
    captions: Sequence[str] = (),
    unconfirmed: Sequence[str] = (),
) -> list[Guide | None]:
    prompts = {3 * index: Prompt(text) for index, text in enumerate(texts)}
    test = CopyTest("image", 0.5)
    known: Any = {
        index: SimpleNamespace(test=test, confirmed=prompt.text not in unconfirmed)
        for index, prompt in prompts.items()
    }
    stand_in: Any = stages
    found = find_guides(stand_in, prompts, known, captions, threshold)
    return [found.get(index) for index, each in known.items() if each.confirmed]


def test_the_longest_start_that_the_screen_clears(threshold: Threshold, level: float) -> None:
    called = [f"an owl on a navy background, {rest}" for rest in ("night", "night school")]
    stages = Known(level, called)
    whole = "an owl on a navy background"
    assert find(stages, threshold, TEXT) == [Guide("start", whole)]
    assert stages.drawn == [("guide-1", [whole]), ("guide-1-again", [whole])]
    assert [len(set(seeds)) for seeds in stages.seeds] == [4, 8]
    assert not set(stages.seeds[0]) & set(stages.seeds[1])


def test_a_guide_whose_images_are_copies_gives_way_to_another(
    threshold: Threshold, level: float
) -> None:
    stages = Known(level, means={"a red door on": COPY, "a red door": COPY})
    found = find(stages, threshold, "a red door on a", "two cats")
    assert found == [Guide("start", "a red"), Guide("start", "two")]
    assert stages.drawn == [
        ("guide-1", ["a red door on", "two"]),
        ("guide-1-again", ["two"]),
        ("guide-2", ["a red door"]),
        ("guide-3", ["a red"]),
        ("guide-3-again", ["a red"]),
    ]
    assert len(set(stages.seeds)) == 6


def test_starts_and_captions_are_drawn_in_the_order_of_their_likeness(
    threshold: Threshold, level: float
) -> None:
    """And a start before a caption that is as far."""
    captions = ["my blue fox", "my old fox", "cat"]
    copies = ["a red door", "my blue fox", "my old fox"]
    stages = Known(level, means=dict.fromkeys(copies, COPY))
    found = find(stages, threshold, "a red door on", captions=captions)
    assert found == [Guide("start", "a red")]
    wanted = ["my blue fox", "a red door", "my old fox", "a red", "a red"]
    assert [texts for _, texts in stages.drawn] == [[text] for text in wanted]


def test_starts_come_first_for_a_closed_form(threshold: Threshold, level: float) -> None:
    copies = ["a red door", "a red", "my blue fox"]
    stages = Known(level, means=dict.fromkeys(copies, COPY), part="denoiser")
    found = find(stages, threshold, "a red door on", captions=["cat", "my blue fox", "elks"])
    assert found == [Guide("start", "a")]
    assert [texts for _, texts in stages.drawn] == [["a red door"], ["a red"], ["a"], ["a"]]
    stages = Known(level, means=dict.fromkeys([*copies, "a"], COPY), part="denoiser")
    found = find(stages, threshold, "a red door on", captions=["cat", "my blue fox", "elks"])
    assert found == [Guide("neighbour", "elks")]


def test_what_seems_far_is_looked_at_again(threshold: Threshold, level: float) -> None:
    """A copy there, or images that are closer, and it gives way. All images of it count."""
    stages = Known(level, again={"a red door": COPY, "a red": 0.3})
    assert find(stages, threshold, "a red door on") == [Guide("start", "a")]
    assert [kind for kind, _ in stages.drawn] == [
        f"guide-{place}{end}" for place in (1, 2, 3) for end in ("", "-again")
    ]
    stages = Known(level, again={"a red": 0.15, "a": COPY})
    assert find(stages, threshold, "a red door") == [Guide("start", "a red")]
    stages = Known(level, again={"a red": 0.22, "a": COPY})  # .5 is 2.6 deviations from .147
    assert find(stages, threshold, "a red door", captions=["an elk"]) == [
        Guide("neighbour", "an elk")
    ]


def test_if_no_guide_is_far_the_farthest_is_taken(threshold: Threshold, level: float) -> None:
    means = {"a red": CLOSE, "a": COPY, "my fox": 0.25, "an elk": CLOSE}
    stages = Known(level, means=means)
    found = find(stages, threshold, "a red door", captions=["my fox", "an elk"])
    assert found == [Guide("neighbour", "my fox")]
    assert sorted(text for _, texts in stages.drawn for text in texts) == sorted(means)


def test_no_more_guides_are_looked_at_and_drawn(threshold: Threshold, level: float) -> None:
    starts = starts_of(" ".join("abcdefghijklmn"))
    assert len(starts) > MOST
    captions = [f"{'x' * count} y" for count in range(MOST + 3)]
    stages = Known(level, means=dict.fromkeys([*starts, *captions], COPY))
    assert find(stages, threshold, " ".join("abcdefghijklmn"), captions=captions) == [None]
    assert len(stages.drawn) == MOST
    assert sorted(stages.scored["neighbours"].values()) == sorted(captions[-MOST:])


def test_captions_without_any_guide(threshold: Threshold, level: float) -> None:
    stages = Known(level, called=["a", "a b"], means={"the": COPY})
    assert find(stages, threshold, "a b c", "word", "the end") == [None, None, None]
    assert stages.drawn == [("guide-1", ["the"])]
    assert find(stages, threshold, "a b c", unconfirmed=["a b c"]) == []


def test_a_memorized_caption_is_no_guide(threshold: Threshold, level: float) -> None:
    stages = Known(level, called=["two", "a"])
    found = find(stages, threshold, "two cats", "a fox", captions=["a fox", "two cats", "an elk"])
    assert found == [Guide("neighbour", "an elk")] * 2
    assert set(stages.scored["neighbours"].values()) == {"an elk"}


def test_starts_keep_their_numbers_whichever_prompts_are_memorized(
    threshold: Threshold, level: float
) -> None:
    """Else a prompt that is confirmed later would be given what was said of another start."""
    stages = Known(level)
    find(stages, threshold, "a b", "c d e", unconfirmed=["a b"])
    assert stages.scored["starts"] == {1: "c", 2: "c d"}
    find(stages, threshold, "a b", "c d e")
    assert stages.scored["starts"] == {0: "a", 1: "c", 2: "c d"}


def test_captions_are_numbered_by_their_places(threshold: Threshold, level: float) -> None:
    """So they keep their numbers if the order of their likeness is another one."""
    stages = Known(level)
    find(stages, threshold, "abc", "abcdef", captions=["a", "ab", "a", "abcd"])
    wanted = {0: "a", 1: "ab", 2: "abcd", 9: "a", 10: "ab", 11: "abcd"}
    assert stages.scored["neighbours"] == wanted


def test_records_of_another_text_are_refused(threshold: Threshold, level: float) -> None:
    stages = Known(level)
    stages.instead = "another text"
    with pytest.raises(RunError, match="starts are about 'another text' in place of 'a'"):
        find(stages, threshold, "a b")


def test_a_reworded_caption_is_a_guide(threshold: Threshold, level: float) -> None:
    """Each caption is reworded as it is most like the text, and to no start of it."""
    captions = ["a red kite", "a blue door"]
    stages = Known(level, called=["a red", "a", "a red door"], means={"a poster door": COPY})
    found = find(stages, threshold, "a red door, poster", captions=captions)
    assert found == [Guide("rewording", "a red poster")]
    assert stages.scored["rewordings"] == {0: "a red poster", 1: "a poster door"}
    assert stages.scored["neighbours"] == dict(enumerate(captions))
    assert [texts for _, texts in stages.drawn][:2] == [["a poster door"], ["a red poster"]]


def test_captions_that_are_reworded_alike_count_once(threshold: Threshold, level: float) -> None:
    stages = Known(level)
    find(stages, threshold, "door: a", captions=["a kite", "two of", "a fox"])
    assert stages.scored["rewordings"] == {0: "a door"}
