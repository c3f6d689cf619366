"""Starts of captions."""

from __future__ import annotations

from unmemorize.mitigation._starts import starts_of


def test_a_start_ends_with_a_word_and_is_no_whole() -> None:
    assert starts_of("a cat") == ["a"]
    assert starts_of("one") == starts_of("") == []
    assert starts_of("a  cat , sat: down.") == ["a", "a cat", "a cat , sat"]
