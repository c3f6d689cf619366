"""Counts and lists in messages for people."""

from __future__ import annotations

from collections.abc import Sequence

MOST_LISTED = 10
"""Things that a message names of many."""


def counted(count: int, noun: str) -> str:
    """Return a count with its noun.

    Examples:
        >>> counted(1, "neuron"), counted(0, "neuron")
        ('1 neuron', '0 neurons')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def listed(texts: Sequence[str], count: int | None = None, *, separator: str = ", ") -> str:
    """Return the first texts in one line, and how many more there are.

    Args:
        texts: at least the first `MOST_LISTED` of them.
        count: how many there are; None for those of ``texts``.
        separator: what stands between them.

    Examples:
        >>> listed(["a", "b"]), listed("abcdefghijkl")
        ('a, b', 'a, b, c, d, e, f, g, h, i, j and 2 more')
    """
    more = (len(texts) if count is None else count) - MOST_LISTED
    return separator.join(texts[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
