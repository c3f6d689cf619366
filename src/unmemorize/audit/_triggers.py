"""The first budget at which each image is triggered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from unmemorize.audit._levels import CopyLevel, copy_level
from unmemorize.audit._measures import ImageScores


def levels_at(
    controls: Sequence[ImageScores], place: int, alpha: float
) -> dict[str, CopyLevel | None]:
    """Return the level of a copy of each measure at one budget of the ladder."""
    by_measure = {
        measure: [image.scores[place] for image in controls if image.measure == measure]
        for measure in ("image", "layout")
    }
    return {measure: copy_level(scores, alpha) for measure, scores in by_measure.items()}


def first_triggers(
    images: Sequence[ImageScores],
    controls: Sequence[ImageScores],
    alpha: float,
    *,
    apart: bool,
) -> dict[int, int | None]:
    """Return the place in the ladder at which each image is triggered first, by its index.

    Args:
        images: of one arm.
        controls: of the never-trained arm, whose scores give the level of a copy at each budget.
        alpha: the wanted bound on false triggers.
        apart: whether the control of the image's own index is left out of the levels. Controls are
            judged by each other so: by their own highest score none would ever be triggered, and
            every other arm would look as if it was triggered earlier. So is an image that is
            compared with its own control.

    Returns:
        Index -> place; None for an image that is not triggered.
    """
    count = len(images[0].budgets) if images else 0

    @cache
    def levels(without: int | None) -> list[dict[str, CopyLevel | None]]:
        left = [control for control in controls if control.index != without]
        return [levels_at(left, place, alpha) for place in range(count)]

    found = {}
    for image in images:
        own = levels(image.index if apart else None)
        found[image.index] = image.first_trigger([each[image.measure] for each in own])
    return found
