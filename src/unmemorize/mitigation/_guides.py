"""What a memorized caption may be read like, if the screen clears it and its images are no copies.

The empty prompt is always there. But it is what a model draws without a text, which may be a
training image, too: without one, the bundled model draws a copy of some plant every now and then.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

from unmemorize._errors import RunError
from unmemorize._prompts import Prompt
from unmemorize.detection import Detection, DetectTask, Threshold
from unmemorize.mitigation._confirmation import screen_level
from unmemorize.mitigation._copy_test import CopyTest
from unmemorize.mitigation._seeds import derived_seed
from unmemorize.mitigation._stages import Stages, asked

GuideChoice = Literal["start", "half", "neighbour"]
"""The longest start of the caption, one of at most half as many words, or an ordinary caption."""
Guides = Mapping[GuideChoice, str]
"""What a caption may be read like, as far as there is something."""


def cleared(
    stages: Stages, kind: str, guides: Mapping[int, tuple[int, str]], threshold: Threshold
) -> dict[int, list[str]]:
    """Return the guides of each caption that the screen clears, in the order of their numbers.

    Args:
        stages: what all stages share.
        kind: of the records.
        guides: number of the record -> index of the caption, and what it may be read like.
        threshold: of the model.

    Raises:
        RunError: a record is about another text.
    """
    task = DetectTask(threshold, "never", stages.settings.generation.batch, kind)
    stages.work(kind, task, [(number, Prompt(text)) for number, (_, text) in guides.items()])
    found = dict(stages.run.typed(kind, Detection, "Start a new run."))
    level = screen_level(threshold)
    clear: dict[int, list[str]] = {index: [] for index, _ in guides.values()}
    for number, (index, text) in sorted(guides.items()):
        _refuse_other_text(stages, kind, found[number].prompt, text)
        if found[number].score <= level:
            clear[index].append(text)
    return clear


def drawn_clean(
    stages: Stages, kind: str, guides: Mapping[int, list[str]], tests: Mapping[int, CopyTest]
) -> dict[int, list[str]]:
    """Draw one guide of each caption after the other, until none of its images is a copy.

    Args:
        stages: what all stages share.
        kind: how the records begin. What follows is the round, from 1.
        guides: of each caption by index, the best first.
        tests: tell the copies of each caption.

    Returns:
        The guides that are left of each caption: the one that was drawn clean, and those after it,
        which were not drawn.

    Raises:
        RunError: a record is about another text.
    """
    left = {index: list(texts) for index, texts in sorted(guides.items())}
    clean: set[int] = set()
    number = 0
    while pending := [index for index, texts in left.items() if texts and index not in clean]:
        number += 1
        texts = {index: left[index][0] for index in pending}
        wanted = asked(texts, tests, partial(_seeds, stages, kind))
        records = stages.images(f"{kind}s, drawn", f"{kind}-{number}", None, wanted, stop=1)
        for index, record in records.items():
            _refuse_other_text(stages, f"{kind}-{number}", record.prompt, texts[index])
            if record.copies:
                del left[index][0]
            else:
                clean.add(index)
    return left


def _refuse_other_text(stages: Stages, kind: str, found: str, text: str) -> None:
    if found != text:
        raise RunError(
            f"{stages.run.folder}: its {kind} are about {found!r} in place of {text!r}. "
            "Start a new run."
        )


def _seeds(stages: Stages, kind: str, text: str) -> tuple[int, ...]:
    fingerprint = stages.model.fingerprint
    return tuple(
        derived_seed(kind, fingerprint, text, number)
        for number in range(stages.settings.search_images)
    )
