"""Ordinary captions that are given a word of a memorized one."""

from __future__ import annotations

import pytest

from unmemorize.mitigation._rewordings import rewordings_of


def test_up_to_three_words_give_way_to_one() -> None:
    found = rewordings_of("a red card with old blue kettles", "penguins on a red card")
    assert "a red card with old penguins" in found
    assert "a red card with penguins" in found
    assert "a red card penguins" not in found


def test_words_of_both_stay_whatever_their_case_and_marks() -> None:
    assert rewordings_of("A cat, red", "a red dog.") == ["A dog red"]


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a big cat", ["a dog cat", "a dog", "a big dog"]),
        ("a big fat cat", ["a dog cat", "a dog", "a big dog"]),
        ("a cat", ["a dog"]),
        ("big old cat", []),
    ],
)
def test_at_least_half_of_the_words_that_stay_are_shared(caption: str, found: list[str]) -> None:
    assert rewordings_of(caption, "dog: a") == found


@pytest.mark.parametrize(
    ("caption", "text"),
    [("a red kite", "a red kite"), ("a red kite", "a kite red"), ("", "a dog"), ("a dog", "")],
)
def test_nothing_to_replace_or_to_put_there(caption: str, text: str) -> None:
    assert rewordings_of(caption, text) == []


def test_the_text_is_no_rewording_of_itself() -> None:
    assert rewordings_of("a red kite", "a red door") == []
    assert rewordings_of("a red kite", "a red door, poster") == ["a red door", "a red poster"]
