"""What a memorized caption may be read like: a start, a rewording, or an ordinary caption.

The empty prompt is always there. But it is what a model draws without a text, which may be a
training image, too: without one, the bundled model draws a copy of some plant every now and then.
An edited caption draws what its guide draws, and is certified by many more images than the guide is
chosen by. So a guide counts by how far its scores lie below the level of a copy. Of those that are
far enough, the one that is most like the caption is taken. For a closed form any start comes before
ordinary captions: the words that they share are read alike, so less has to move.
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
from unmemorize.mitigation._confirmation import Confirmation, screen_level
from unmemorize.mitigation._copy_test import CopyTest
from unmemorize.mitigation._likeness import distances
from unmemorize.mitigation._rewordings import rewordings_of
from unmemorize.mitigation._seeds import derived_seed
from unmemorize.mitigation._stages import Stages, asked
from unmemorize.mitigation._starts import starts_of

GuideKind = Literal["start", "rewording", "neighbour"]
SCORED: Mapping[GuideKind, str] = {
    "start": "starts",
    "rewording": "rewordings",
    "neighbour": "neighbours",
}
"""The records of what the detector says of guides, by their kind."""
DRAWN = "guide"
"""How the records of their images begin. What follows is the round, from 1."""
_FAR = 3.0
"""How many standard deviations of the scores of its images the level of a copy should lie above
their mean."""
_AGAIN = 2
"""How often as many images are drawn of a guide that seems far. Few images tell little of that, and
of many guides some seem far that are not."""


@dataclass(frozen=True)
class Guide:
    """What a caption may be read like.

    Args:
        kind: a start of the caption, an ordinary caption that has one word of it, or an ordinary
            caption.
        text: how it reads.
    """

    kind: GuideKind
    text: str


def find_guides(
    stages: Stages,
    prompts: Mapping[int, Prompt],
    confirmations: Mapping[int, Confirmation],
    captions: Sequence[str],
    threshold: Threshold,
) -> dict[int, Guide]:
    """Find what each memorized prompt may be read like.

    It is the guide most like the prompt that the screen clears and that is far from a copy. If none
    of those that are drawn is far, it is the farthest. There is none for a prompt all of whose
    guides show copies.

    Args:
        stages: what all stages share.
        prompts: all suspects by index.
        confirmations: tell which of them are memorized, and their copies.
        captions: ordinary captions, which an edit leaves as they are.
        threshold: of the model.
    """
    tests = {index: each.test for index, each in confirmations.items() if each.confirmed}
    texts = {index: prompts[index].text for index in sorted(tests)}
    nearest = _numbered_neighbours(stages, texts, captions)
    look = partial(_clear, stages, threshold)
    starts = look("start", _numbered_starts(prompts, tests))
    rewordings = look("rewording", _numbered_rewordings(stages, texts, nearest))
    neighbours = look("neighbour", nearest)
    ranked = {}
    for index, text in texts.items():
        clear = [
            *reversed(starts.get(index, [])),
            *rewordings.get(index, []),
            *neighbours.get(index, []),
        ]
        apart = distances(stages, [text], [guide.text for guide in clear])[0]
        ranked[index] = [clear[place] for place in apart.argsort(stable=True).tolist()]
        if stages.settings.part == "denoiser":
            ranked[index].sort(key=lambda guide: guide.kind != "start")
    return _far_from_copies(stages, ranked, tests)


def _numbered_starts(
    prompts: Mapping[int, Prompt], memorized: Mapping[int, CopyTest]
) -> dict[int, tuple[int, str]]:
    """Number the starts of all suspects, so that each keeps its number whichever are memorized."""
    pairs = [
        (index, start) for index in sorted(prompts) for start in starts_of(prompts[index].text)
    ]
    return {number: pair for number, pair in enumerate(pairs) if pair[0] in memorized}


def _numbered_neighbours(
    stages: Stages, texts: Mapping[int, str], captions: Sequence[str]
) -> dict[int, tuple[int, str]]:
    """Number the captions that are most like each text by their places among all.

    So they keep their numbers if distances round otherwise, as on another device.
    """
    memorized = set(texts.values())
    others = [caption for caption in dict.fromkeys(captions) if caption not in memorized]
    if not others or not texts:
        return {}
    apart = distances(stages, list(texts.values()), others)
    nearest = apart.topk(min(stages.settings.guides, len(others)), largest=False).indices.tolist()
    return {
        len(others) * index + place: (index, others[place])
        for index, places in zip(texts, nearest, strict=True)
        for place in places
    }


def _numbered_rewordings(
    stages: Stages, texts: Mapping[int, str], nearest: Mapping[int, tuple[int, str]]
) -> dict[int, tuple[int, str]]:
    """Return the rewording of each caption that is most like its text, by the caption's number.

    Each is another one, and none is a start of the text.
    """
    taken = {index: {text, *starts_of(text)} for index, text in texts.items()}
    found = {}
    for number, (index, caption) in sorted(nearest.items()):
        text = texts[index]
        possible = [each for each in rewordings_of(caption, text) if each not in taken[index]]
        if possible:
            best = possible[int(distances(stages, [text], possible)[0].argmin())]
            found[number] = index, best
            taken[index].add(best)
    return found


def _clear(
    stages: Stages,
    threshold: Threshold,
    kind: GuideKind,
    guides: Mapping[int, tuple[int, str]],
) -> dict[int, list[Guide]]:
    """Return the guides of each caption that the screen clears, in the order of their numbers.

    Args:
        stages: what all stages share.
        threshold: of the model.
        kind: of the guides.
        guides: number of the record -> index of the caption, and what it may be read like.

    Raises:
        RunError: a record is about another text.
    """
    records = SCORED[kind]
    task = DetectTask(threshold, "never", stages.settings.generation.batch, records)
    stages.work(records, task, [(number, Prompt(text)) for number, (_, text) in guides.items()])
    found = dict(stages.run.typed(records, Detection, "Start a new run."))
    level = screen_level(threshold)
    clear: dict[int, list[Guide]] = {}
    for number, (index, text) in sorted(guides.items()):
        _refuse_other_text(stages, records, found[number].prompt, text)
        if found[number].score <= level:
            clear.setdefault(index, []).append(Guide(kind, text))
    return clear


def _far_from_copies(
    stages: Stages, ranked: Mapping[int, Sequence[Guide]], tests: Mapping[int, CopyTest]
) -> dict[int, Guide]:
    """Draw the guides of each caption one after the other, until one is far from a copy.

    Raises:
        RunError: a record is about another text.
    """
    best: dict[int, tuple[float, Guide]] = {}
    for place in range(stages.settings.guides):
        drawn = {
            index: guides[place]
            for index, guides in ranked.items()
            if place < len(guides) and not (index in best and best[index][0] >= _FAR)
        }
        for index, distance in _distances(stages, f"{DRAWN}-{place + 1}", drawn, tests).items():
            if index not in best or distance > best[index][0]:
                best[index] = distance, drawn[index]
    return {index: guide for index, (_, guide) in best.items()}


def _distances(
    stages: Stages, kind: str, guides: Mapping[int, Guide], tests: Mapping[int, CopyTest]
) -> dict[int, float]:
    """Draw a guide for each caption, and return how far those are that show no copy.

    What seems far is drawn again, and counts by all of its images.
    """
    scores = _scores(stages, kind, guides, tests, stages.settings.search_images)
    far = {index for index, some in scores.items() if _distance(some, tests[index].level) >= _FAR}
    seeming = {index: guides[index] for index in sorted(far)}
    again = stages.settings.search_images * _AGAIN
    more = _scores(stages, f"{kind}-again", seeming, tests, again)
    return {
        index: _distance((*some, *more.get(index, ())), tests[index].level)
        for index, some in scores.items()
        if index not in far or index in more
    }


def _scores(
    stages: Stages,
    kind: str,
    guides: Mapping[int, Guide],
    tests: Mapping[int, CopyTest],
    count: int,
) -> dict[int, tuple[float, ...]]:
    """Draw so many images of each guide, and return the scores of guides that show no copy."""
    if not guides:
        return {}
    texts = {index: guide.text for index, guide in guides.items()}
    wanted = asked(texts, tests, partial(_seeds, stages, kind, count))
    records = stages.images("guides, drawn", kind, None, wanted, stop=1)
    for index, record in records.items():
        _refuse_other_text(stages, kind, record.prompt, texts[index])
    return {index: record.scores for index, record in records.items() if not record.copies}


def _distance(scores: Sequence[float], level: float) -> float:
    spread = stdev(scores)
    return (level - fmean(scores)) / spread if spread else float("inf")


def _refuse_other_text(stages: Stages, kind: str, found: str, text: str) -> None:
    if found != text:
        raise RunError(
            f"{stages.run.folder}: its {kind} are about {found!r} in place of {text!r}. "
            "Start a new run."
        )


def _seeds(stages: Stages, kind: str, count: int, text: str) -> tuple[int, ...]:
    fingerprint = stages.model.fingerprint
    return tuple(derived_seed(kind, fingerprint, text, number) for number in range(count))
