"""What an edited model may draw in place of a copy: the start of the caption, if it is no copy.

A caption is often memorized by its last words alone. What comes before them is then an ordinary
caption, and an edit that makes the whole read like it leaves what the caption asks for. Text
encoders that are causal read the words of the start as before, so an edit need not touch them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Literal

from unmemorize._prompts import Prompt
from unmemorize.detection import Detection, DetectTask, Threshold
from unmemorize.mitigation._confirmation import Confirmation, screen_level
from unmemorize.mitigation._seeds import derived_seed
from unmemorize.mitigation._stages import Stages, asked

STARTS = "starts"
"""The records of what the detector says of starts."""
DRAWN = "start"
"""How the records of their images begin. What follows is the round, from 1."""
StartChoice = Literal["whole", "half"]
"""The longest start, or one of at most half as many words."""
Starts = Mapping[StartChoice, str]
"""What a caption may read like, as far as there is something."""


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
) -> dict[int, Starts]:
    """Find the start of each memorized prompt that may be drawn in its place.

    It is the longest one that the screen clears and none of whose images is a copy. Images are
    drawn of one start after the other, the longest first.

    Args:
        stages: what all stages share.
        prompts: all suspects by index.
        confirmations: tell which of them are memorized, and their copies.
        threshold: of the model.
    """
    tests = {index: each.test for index, each in confirmations.items() if each.confirmed}
    clear = _cleared(stages, prompts, tests.keys(), threshold)
    found: dict[int, Starts] = {}
    number = 0
    while pending := {index: left for index, left in clear.items() if left and index not in found}:
        number += 1
        texts = {index: left[0] for index, left in pending.items()}
        wanted = asked(texts, tests, partial(_seeds, stages))
        records = stages.images("starts, drawn", f"{DRAWN}-{number}", None, wanted, stop=1)
        for index, record in records.items():
            if record.copies:
                clear[index] = clear[index][1:]
            else:
                found[index] = _choices(clear[index])
    return {index: found.get(index, {}) for index in tests}


def _cleared(
    stages: Stages,
    prompts: Mapping[int, Prompt],
    memorized: Collection[int],
    threshold: Threshold,
) -> dict[int, list[str]]:
    """Return the starts of memorized prompts that the screen clears, the longest first.

    Their numbers count the starts of all suspects, so they stay what they are in any case.
    """
    texts = {index: prompt.text for index, prompt in sorted(prompts.items())}
    pairs = [(index, start) for index, text in texts.items() for start in starts_of(text)]
    owned = {number: pair for number, pair in enumerate(pairs) if pair[0] in memorized}
    task = DetectTask(threshold, "never", stages.settings.generation.batch, STARTS)
    stages.work("starts", task, [(number, Prompt(start)) for number, (_, start) in owned.items()])
    found = dict(stages.run.typed(STARTS, Detection, "Start a new run."))
    level = screen_level(threshold)
    clear = {index: list[str]() for index in sorted(memorized)}
    for number, (index, start) in reversed(owned.items()):
        if found[number].score <= level:
            clear[index].append(start)
    return clear


def _choices(clear: Sequence[str]) -> Starts:
    start = clear[0]
    most = len(start.split()) // 2
    half = next((each for each in clear if len(each.split()) <= most), None)
    return {"whole": start, **({"half": half} if half else {})}


def _seeds(stages: Stages, start: str) -> tuple[int, ...]:
    fingerprint = stages.model.fingerprint
    return tuple(
        derived_seed("start", fingerprint, start, number)
        for number in range(stages.settings.search_images)
    )
