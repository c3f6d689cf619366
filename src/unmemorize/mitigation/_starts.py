"""What an edited model may draw in place of a copy: the start of the caption, if it is no copy.

A caption is often memorized by its last words alone. What comes before them is then an ordinary
caption, and an edit that makes the whole read like it leaves what the caption asks for. Text
encoders that are causal read the words of the start as before, so an edit need not touch them.
"""

from __future__ import annotations

from collections.abc import Mapping

from unmemorize._prompts import Prompt
from unmemorize.detection import Threshold
from unmemorize.mitigation._confirmation import Confirmation
from unmemorize.mitigation._guides import Guides, cleared, farthest
from unmemorize.mitigation._stages import Stages

STARTS = "starts"
"""The records of what the detector says of starts."""
DRAWN = "start"
"""How the records of their images begin."""
_FAR = 3.0
"""How far a start must be from a copy: little, since it leaves what the caption asks for."""


def starts_of(text: str) -> list[str]:
    """Return all starts of a caption that end with a word, without the whole, the shortest first.

    Examples:
        >>> starts_of("a cat, festival poster")
        ['a', 'a cat', 'a cat, festival']
    """
    words = text.split()
    starts = [" ".join(words[:count]).rstrip(",;:. ") for count in range(1, len(words))]
    return [start for start in dict.fromkeys(starts) if start]


def find_starts(
    stages: Stages,
    prompts: Mapping[int, Prompt],
    confirmations: Mapping[int, Confirmation],
    threshold: Threshold,
) -> dict[int, Guides]:
    """Find the start of each memorized prompt that may be drawn in its place.

    It is the longest one that the screen clears and that is far from a copy. Numbers of records
    count the starts of all suspects, so they stay what they are whichever are memorized.

    Args:
        stages: what all stages share.
        prompts: all suspects by index.
        confirmations: tell which of them are memorized, and their copies.
        threshold: of the model.
    """
    tests = {index: each.test for index, each in confirmations.items() if each.confirmed}
    texts = {index: prompt.text for index, prompt in sorted(prompts.items())}
    pairs = [(index, start) for index, text in texts.items() for start in starts_of(text)]
    owned = {number: pair for number, pair in enumerate(pairs) if pair[0] in tests}
    clear = cleared(stages, STARTS, owned, threshold)
    longest = {index: starts[::-1] for index, starts in clear.items()}
    found = farthest(stages, DRAWN, longest, tests, _FAR)
    return {
        index: {"start": found[index].text}
        if index in found and found[index].distance >= _FAR
        else {}
        for index in tests
    }
