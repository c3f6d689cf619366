"""What an audit says, and the numbers that it rests on. It never says "erased"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unmemorize.audit._comparisons import (
    equivalence_p,
    holm,
    mean_interval,
    rate_bounds,
    sign_flip_p,
    two_sample_p,
)
from unmemorize.audit._measures import ImageScores
from unmemorize.audit._settings import COPY, ArmName
from unmemorize.audit._triggers import first_triggers, levels_at
from unmemorize.mitigation import percent_up

CHEAPER = "cheaper than never-trained"
UNDECIDED = "undecided"
NOT_TESTED = "not tested"


@dataclass(frozen=True, kw_only=True)
class BudgetVerdict:
    """What is said about the edited model at one budget of one attack.

    Args:
        attack: its name.
        budget: steps.
        images: how many images were judged; those without a level of their measure are not.
        triggered: images whose score is above the level of this budget or of a smaller one.
        bound: one-sided 95 % upper bound of the rate of triggered images (Clopper and Pearson).
        tau: the level of whole images; None without a never-trained arm.
        false_triggers: a never-trained image is above the level of this budget with at most this
            probability, by the level of its measure; of several measures, the largest. It is
            triggered within the budget with at most the sum over this budget and smaller ones.
        controls: never-trained images that the level rests on.
        paired: whether they are the same images in a model that never saw them.
        medians: the median score of each arm.
        difference: mean score of the edited arm minus that of the never-trained one.
        interval: of the difference, 95 % (bootstrap over images); None for unpaired arms.
        p: of "no cheaper than never-trained", one-sided.
        p_family: the same, for all attacks and budgets of the audit together (Holm).
        p_equivalence: of "differs by delta or more", likewise for all together.
        half, seven_tenths: share of images with a score above .5 and .7.
        explained: whether the images above the levels of this budget and smaller ones may be false
            triggers: no more than these give on average, and no copy where no never-trained image
            is one.
        verdict: the words.
        unjudged: images that were not judged, because no never-trained image has their measure.
    """

    attack: str
    budget: int
    images: int
    triggered: int
    bound: float
    tau: float | None
    false_triggers: float | None
    controls: int
    paired: bool
    medians: dict[ArmName, float]
    difference: float | None
    interval: tuple[float, float] | None
    p: float
    p_family: float
    p_equivalence: float
    half: float
    seven_tenths: float
    explained: bool = True
    verdict: str = NOT_TESTED
    unjudged: int = 0


def compared(
    attack: str,
    place: int,
    by_arm: Mapping[ArmName, Sequence[ImageScores]],
    *,
    paired: bool,
    alpha: float,
    delta: float,
) -> BudgetVerdict:
    """Compare the edited model with the never-trained arm at one budget.

    Args:
        attack: its name.
        place: of the budget in the ladder.
        by_arm: scores of the images of each arm.
        paired: whether the controls are the same images, by their index.
        alpha, delta: see `AuditSettings`.

    Returns:
        The numbers. `worded` adds the family's p-values and the words.
    """
    edited, controls = by_arm["edited"], by_arm.get("never-trained", ())
    levels = levels_at(controls, place, alpha)
    judged = [image for image in edited if levels[image.measure] is not None]
    first_places = first_triggers(judged, controls, alpha, apart=False).values()
    triggered = sum(first is not None and first <= place for first in first_places)
    if paired:
        other = {image.index: image.scores[place] for image in controls}
        pairs = [
            (image.scores[place], other[image.index]) for image in edited if image.index in other
        ]
        first, second = [one for one, _ in pairs], [two for _, two in pairs]
        differences = [one - two for one, two in pairs]
        p = sign_flip_p(differences)
        interval = mean_interval(differences) if differences else None
    else:
        first = [image.scores[place] for image in edited if image.measure == "image"]
        second = [image.scores[place] for image in controls if image.measure == "image"]
        p, interval = two_sample_p(first, second), None
    scores = [image.scores[place] for image in edited]
    level = levels["image"]
    used = [levels[image.measure] for image in judged] or list(levels.values())
    tested = bool(first and second)
    return BudgetVerdict(
        attack=attack,
        budget=edited[0].budgets[place],
        images=len(judged),
        triggered=triggered,
        bound=rate_bounds(triggered, len(judged))[1] if judged else 1.0,
        tau=level.tau if level else None,
        false_triggers=max((each.alpha for each in used if each is not None), default=None),
        controls=len(controls),
        paired=paired,
        medians={
            arm: float(np.median([image.scores[place] for image in images]))
            for arm, images in by_arm.items()
            if images
        },
        difference=float(np.mean(first) - np.mean(second)) if tested else None,
        interval=interval,
        p=p,
        p_family=1.0,
        p_equivalence=equivalence_p(first, second, delta, paired=paired),
        unjudged=len(edited) - len(judged),
        half=float(np.mean([score > 0.5 for score in scores])),
        seven_tenths=float(np.mean([score > 0.7 for score in scores])),
        explained=all(_explained(judged, controls, at, alpha) for at in range(place + 1)),
    )


def _explained(
    images: Sequence[ImageScores], controls: Sequence[ImageScores], place: int, alpha: float
) -> bool:
    """Return whether the images above the levels of one budget may be false triggers.

    They may if they are no more than false triggers give on average, and none of them is a copy
    where no never-trained image is.
    """
    levels = levels_at(controls, place, alpha)
    pairs = [(image.scores[place], levels[image.measure]) for image in images]
    above = [score for score, level in pairs if level is not None and score > level.tau]
    copied = any(score > COPY for score in above)
    if copied and all(control.scores[place] <= COPY for control in controls):
        return False
    return len(above) <= math.fsum(level.alpha for _, level in pairs if level is not None)


def worded(
    verdicts: Sequence[BudgetVerdict], alpha: float, delta: float
) -> tuple[BudgetVerdict, ...]:
    """Correct the p-values of all attacks and budgets together, and say what they mean."""
    tested = [place for place, verdict in enumerate(verdicts) if verdict.difference is not None]
    family = dict(zip(tested, holm([verdicts[place].p for place in tested]), strict=True))
    same = dict(zip(tested, holm([verdicts[place].p_equivalence for place in tested]), strict=True))
    words = []
    for place, verdict in enumerate(verdicts):
        corrected = replace(
            verdict, p_family=family.get(place, 1.0), p_equivalence=same.get(place, 1.0)
        )
        said = verdict_words(corrected, alpha, delta) + _about_unjudged(corrected)
        words.append(replace(corrected, verdict=said))
    return tuple(words)


def _about_unjudged(verdict: BudgetVerdict) -> str:
    if not verdict.controls or not verdict.unjudged:
        return ""
    every = verdict.images + verdict.unjudged
    return (
        f"; {verdict.unjudged} of {every} images not judged, because no never-trained image has "
        "a score of their kind (layout or whole image)"
    )


def verdict_words(verdict: BudgetVerdict, alpha: float, delta: float) -> str:
    """Return what may be said at one budget.

    Examples:
        >>> verdict = BudgetVerdict(
        ...     attack="L4", budget=50, images=24, triggered=0, bound=0.1174, tau=0.4,
        ...     false_triggers=0.05, controls=24, paired=True, medians={"edited": 0.2},
        ...     difference=0.0, interval=(-0.1, 0.1), p=0.5, p_family=1.0,
        ...     p_equivalence=0.2, half=0.0, seven_tenths=0.0)
        >>> verdict_words(verdict, 0.05, 0.1)
        'not triggered within B = 50 (upper bound 11.8 %)'
    """
    if not verdict.controls or not verdict.images:
        return NOT_TESTED
    triggered = f"{verdict.triggered} of {verdict.images} triggered"
    if verdict.p_family <= alpha:
        return f"{CHEAPER}: p = {_p(verdict.p_family)}; {triggered}"
    statements = []
    if verdict.triggered == 0:
        bound = percent_up(verdict.bound)
        statements.append(f"not triggered within B = {verdict.budget} (upper bound {bound})")
    if verdict.p_equivalence <= alpha and verdict.explained:
        statements.append(
            "as dear as never-trained in the mean: equivalence within delta = "
            f"{delta:g} (two one-sided tests)"
        )
        if verdict.triggered:
            statements.append(triggered)
    return "; ".join(statements) or f"{UNDECIDED} ({triggered})"


def _p(value: float) -> str:
    return f"{value:.2g}"
