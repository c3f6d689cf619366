"""The starts of captions.

A caption is often memorized by its last words alone. What comes before them is then an ordinary
caption, and an edit that makes the whole read like it leaves what the caption asks for. Text
encoders that are causal read the words of the start as before, so an edit need not touch them.
"""

from __future__ import annotations


def starts_of(text: str) -> list[str]:
    """Return all starts of a caption that end with a word, without the whole, the shortest first.

    Examples:
        >>> starts_of("a cat, festival poster")
        ['a', 'a cat', 'a cat, festival']
    """
    words = text.split()
    starts = [" ".join(words[:count]).rstrip(",;:. ") for count in range(1, len(words))]
    return [start for start in dict.fromkeys(starts) if start]
