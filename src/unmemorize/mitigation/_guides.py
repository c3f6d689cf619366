"""What a memorized caption may be read like, if the screen clears it and copies are far from it.

The empty prompt is always there. But it is what a model draws without a text, which may be a
training image, too: without one, the bundled model draws a copy of some plant every now and then.
An edited caption draws what its guide draws, and is certified by many more images than the guide is
chosen by. So a guide counts by how far its scores lie below the level of a copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import Literal

from unmemorize._errors import RunError
from unmemorize._prompts import Prompt
from unmemorize.detection import Detection, DetectTask, Threshold
from unmemorize.mitigation._confirmation import screen_level
from unmemorize.mitigation._copy_test import CopyTest
from unmemorize.mitigation._seeds import derived_seed
from unmemorize.mitigation._stages import Stages, asked

GuideChoice = Literal["start", "neighbour"]
"""A start of the caption, or an ordinary caption."""
Guides = Mapping[GuideChoice, str]
"""What a caption may be read like, as far as there is something."""
MOST_DRAWN = 6
"""How many guides of a kind are drawn for each caption, at most."""


@dataclass(frozen=True)
class Drawn:
    """A guide none of whose images is a copy.

    Args:
        text: the caption.
        distance: how many standard deviations of the scores of its images the level of a copy lies
            above their mean.
    """

    text: str
    distance: float


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


def farthest(
    stages: Stages,
    kind: str,
    guides: Mapping[int, Sequence[str]],
    tests: Mapping[int, CopyTest],
    far: float,
) -> dict[int, Drawn]:
    """Draw one guide of each caption after the other, until copies are far from one.

    Args:
        stages: what all stages share.
        kind: how the records begin. What follows is the round, from 1.
        guides: of each caption by index, the best first.
        tests: tell the copies of each caption.
        far: the distance that suffices, see `Drawn`.

    Returns:
        The first guide of each caption that is far from a copy. If none is, the farthest of those
        that were drawn, `MOST_DRAWN` at most. Captions all of whose guides show copies are left
        out.

    Raises:
        RunError: a record is about another text.
    """
    best: dict[int, Drawn] = {}
    for place in range(MOST_DRAWN):
        texts = {
            index: some[place]
            for index, some in guides.items()
            if place < len(some) and not (index in best and best[index].distance >= far)
        }
        if not texts:
            break
        drawn_kind = f"{kind}-{place + 1}"
        wanted = asked(texts, tests, partial(_seeds, stages, kind))
        records = stages.images(f"{kind}s, drawn", drawn_kind, None, wanted, stop=1)
        for index, record in records.items():
            _refuse_other_text(stages, drawn_kind, record.prompt, texts[index])
            if record.copies:
                continue
            drawn = Drawn(texts[index], _distance(record.scores, tests[index].level))
            if index not in best or drawn.distance > best[index].distance:
                best[index] = drawn
    return best


def _distance(scores: Sequence[float], level: float) -> float:
    spread = stdev(scores)
    return (level - fmean(scores)) / spread if spread else float("inf")


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
