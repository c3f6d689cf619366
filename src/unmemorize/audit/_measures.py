"""From the records of attacks to one score for each image at each budget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

from unmemorize.audit._levels import CopyLevel
from unmemorize.audit._records import AttackRecord


@dataclass(frozen=True)
class ImageScores:
    """What one attack reached on one image.

    An attacker keeps the best that was found. So scores never fall with the budget.

    Args:
        index: the position of the image.
        prompt: its caption; the first of several.
        measure: "image" or "layout".
        budgets: rising.
        scores: at each budget the median over generation seeds, the highest over starts,
            repetitions, captions and smaller budgets.
        best: the same with the best generation seed.
        samples: work at each budget in all trials.
        image: the file with the most similar image.
    """

    index: int
    prompt: str
    measure: str
    budgets: tuple[int, ...]
    scores: tuple[float, ...]
    best: tuple[float, ...]
    samples: tuple[int, ...]
    image: str

    def first_trigger(self, levels: Sequence[CopyLevel | None]) -> int | None:
        """Return the first place in the ladder at which the score is above its level."""
        for place, (score, level) in enumerate(zip(self.scores, levels, strict=True)):
            if level is not None and score > level.tau:
                return place
        return None


def image_scores(
    records: Iterable[AttackRecord], indices: Sequence[int]
) -> tuple[ImageScores, ...]:
    """Combine the records of one attack in one arm.

    Args:
        records: of all trials and budgets.
        indices: the position of each target of the arm, see `Arm`. Targets of one position are
            one image, which has the best of their scores.
    """
    by_index: dict[int, list[AttackRecord]] = defaultdict(list)
    for record in records:
        by_index[indices[record.target]].append(record)
    combined = []
    for index, group in sorted(by_index.items()):
        budgets = tuple(sorted({record.budget for record in group}))
        at = [[record for record in group if record.budget == budget] for budget in budgets]
        medians = [max(median(record.scores) for record in some) for some in at]
        best = [max(max(record.scores) for record in some) for some in at]
        top = max(group, key=lambda record: max(record.scores))
        combined.append(
            ImageScores(
                index=index,
                prompt=group[0].prompt,
                measure=group[0].measure,
                budgets=budgets,
                scores=tuple(accumulate(medians, max)),
                best=tuple(accumulate(best, max)),
                samples=tuple(sum(record.samples for record in some) for some in at),
                image=top.image,
            )
        )
    return tuple(combined)
