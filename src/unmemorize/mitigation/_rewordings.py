"""Ordinary captions that are given a word of a memorized one.

An ordinary caption that is like a memorized one says something else, or it would be that one. With
a word of it in place of its own, it asks for nearly the same in other words: *a red card with a
kettle* turns into *a red card with a penguin* for *a penguin on a red background, expedition
stamp*. Few ordinary captions have enough in common with a memorized one for that.
"""

from __future__ import annotations

_LONGEST = 3
"""Words that one word may take the place of, as many as names of things have at most."""


def rewordings_of(caption: str, text: str) -> list[str]:
    """Return an ordinary caption with up to three neighbouring words replaced by one of a text.

    No word that both have is replaced, and of those that stay, at least half are words of both. The
    text itself is not among what is returned.

    Args:
        caption: an ordinary caption.
        text: a memorized one.

    Examples:
        >>> rewordings_of("a red kite", "a red door, poster")
        ['a red door', 'a red poster']
        >>> rewordings_of("two dogs", "a red door")
        []
    """
    words, wanted = caption.split(), [_bare(word) for word in text.split()]
    own = [_bare(word) for word in words]
    shared = [word in wanted for word in own]
    new = [word for word in dict.fromkeys(wanted) if word and word not in own]
    spans = [
        (start, end)
        for start in range(len(words))
        for end in range(start + 1, min(start + _LONGEST, len(words)) + 1)
        if not any(shared[start:end]) and 2 * sum(shared) >= len(words) - (end - start) > 0
    ]
    found = dict.fromkeys(
        " ".join([*words[:start], word, *words[end:]]) for start, end in spans for word in new
    )
    return [reworded for reworded in found if reworded != text]


def _bare(word: str) -> str:
    return word.lower().strip(",;:.!?\"'()")
