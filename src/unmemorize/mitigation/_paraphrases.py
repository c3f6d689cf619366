"""Other wordings of the memorized prompts, which may bring a copy back under an edit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from unmemorize._prompts import Prompt
from unmemorize.generation import Edit
from unmemorize.mitigation._certificate import Copies
from unmemorize.mitigation._confirmation import search_seeds
from unmemorize.mitigation._images import ImagesRecord, read_image_records
from unmemorize.mitigation._stages import asked, digest
from unmemorize.mitigation._work import Work
from unmemorize.runs import Run, stream_prompts

PARAPHRASE_SEEDS = 4
"""Images of each paraphrase."""
_KIND = "paraphrases-{}"
"""The names of the records: without an edit, and by the digest of one."""
_UNEDITED = "before"


@dataclass(frozen=True, kw_only=True)
class Paraphrase:
    """What another wording of a memorized prompt brings back.

    Args:
        text: the wording.
        before, after: copies among its unedited images, and among those from the same noise under
            the edit.
        files_left, scores_left: of the latter those that are copies, the worst first. A run of an
            earlier version kept no files of them.
    """

    text: str
    before: Copies
    after: Copies
    files_left: tuple[str, ...] = ()
    scores_left: tuple[float, ...] = ()

    @property
    def share(self) -> float:
        """The share of its images under the edit that are copies."""
        return self.after.copies / self.after.seeds


def draw_paraphrases(work: Work, edit: Edit) -> None:
    """Generate images of the paraphrases of each confirmed prompt, with and without an edit."""
    numbered = _numbered(work.prompts.items())
    pairs = {number: pair for number, pair in numbered if pair[0] in work.confirmed}
    if not pairs:
        return
    images = partial(
        work.stages.images,
        asked=asked(
            {number: text for number, (_, text) in pairs.items()},
            {number: work.confirmations[index].test for number, (index, _) in pairs.items()},
            lambda text: search_seeds(work.stages, text)[:PARAPHRASE_SEEDS],
        ),
    )
    images("paraphrases, before", _KIND.format(_UNEDITED), None)
    images("paraphrases, after", _KIND.format(digest(edit)), edit, keep="copies")


def read_paraphrases(
    run: Run, edit: str, levels: Mapping[int, float]
) -> dict[int, tuple[Paraphrase, ...]]:
    """Read what `draw_paraphrases` found, by index of the prompt.

    Args:
        run: a mitigation.
        edit: the digest of the edit.
        levels: of each confirmed prompt the score above which an image is a copy.

    Raises:
        RunError: a record is damaged.
    """
    before, after = (read_image_records(run, _KIND.format(each)) for each in (_UNEDITED, edit))
    found: dict[int, tuple[Paraphrase, ...]] = {}
    for number, (index, text) in _numbered(enumerate(stream_prompts(run))):
        if index in levels and number in before and number in after:
            paraphrase = _paraphrase(text, before[number], after[number], levels[index])
            found[index] = (*found.get(index, ()), paraphrase)
    return found


def _numbered(prompts: Iterable[tuple[int, Prompt]]) -> Iterator[tuple[int, tuple[int, str]]]:
    """Yield the number of each record with the index of the prompt, and its wording.

    Paraphrases of all suspects count, so that each keeps its number whichever are memorized.
    """
    return enumerate((index, text) for index, prompt in prompts for text in prompt.paraphrases)


def _paraphrase(text: str, before: ImagesRecord, after: ImagesRecord, level: float) -> Paraphrase:
    scores = [score for score in after.scores if score > level]
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return Paraphrase(
        text=text,
        before=Copies(before.copies, len(before.seeds)),
        after=Copies(after.copies, len(after.seeds)),
        files_left=tuple(after.files[place] for place in order) if after.files else (),
        scores_left=tuple(scores[place] for place in order),
    )
