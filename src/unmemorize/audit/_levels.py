"""What counts as a copy at a budget, and what a p-value of one image is: conformal ranks.

Both compare with images that the model was never trained on and that were attacked in the same
way. They hold if such an image and the tested one are exchangeable where nothing is memorized.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.stats import false_discovery_control

from unmemorize._words import counted
from unmemorize.detection import conformal_quantile, smallest_rate


@dataclass(frozen=True)
class CopyLevel:
    """The score above which an attack has triggered an image.

    Args:
        tau: the level.
        alpha: a never-trained image exceeds tau with at most this probability.
        controls: how many never-trained images it rests on.
    """

    tau: float
    alpha: float
    controls: int


def copy_level(scores: Sequence[float], alpha: float) -> CopyLevel | None:
    """Return the level of a copy from the scores of never-trained images under the same attack.

    Args:
        scores: one for each never-trained image, at the same budget.
        alpha: the wanted bound on false triggers, in (0, 1). Fewer than 1 / alpha - 1 images give
            the smallest bound that they allow.

    Returns:
        The level, or None without any image.

    Examples:
        >>> copy_level([0.1, 0.3, 0.2], 0.05)
        CopyLevel(tau=0.3, alpha=0.25, controls=3)
    """
    if not scores:
        return None
    rate = smallest_rate(len(scores), alpha)
    return CopyLevel(conformal_quantile(scores, rate), rate, len(scores))


def conformal_p(score: float, controls: Sequence[float]) -> float:
    """Return the conformal p-value of a score against those of never-trained images.

    It is (1 + number of controls with at least this score) / (1 + number of controls). Ties count
    against the image.

    Examples:
        >>> conformal_p(0.9, [0.1, 0.2, 0.3]), conformal_p(0.2, [0.1, 0.2, 0.3])
        (0.25, 0.75)
    """
    return (1 + sum(control >= score for control in controls)) / (1 + len(controls))


def smallest_p(controls: int) -> float:
    """Return the smallest p-value that so many controls can give.

    Examples:
        >>> smallest_p(24)
        0.04
    """
    return 1 / (1 + controls)


def discoveries_needed(images: int, controls: int, rate: float) -> int:
    """Return how many images must have the smallest p-value before any of them is a discovery.

    Benjamini and Hochberg reject k of m hypotheses if the k-th smallest p-value is at most
    ``rate`` * k / m. A number above ``images`` means that nothing can be found.

    Examples:
        >>> discoveries_needed(10, 24, 0.05), discoveries_needed(10, 199, 0.05)
        (8, 1)
    """
    return math.ceil(Fraction(images) / (Fraction(str(rate)) * (controls + 1)))


def ranks_in_words(images: int, controls: int, rate: float) -> str:
    """Say what so many controls can show at best, before the work.

    Examples:
        >>> ranks_in_words(1, 24, 0.05)
        '24 controls: the smallest possible p is 0.04. The image is found at p = 0.05 or less.'
    """
    needed = discoveries_needed(images, controls, rate)
    smallest = (
        f"{counted(controls, 'control')}: the smallest possible p is {smallest_p(controls):.3g}. "
    )
    if needed > images:
        return (
            f"{smallest}At a false discovery rate of {rate:g}, nothing can be found among "
            f"{counted(images, 'image')}. Give more controls with --controls."
        )
    if images == 1:
        return f"{smallest}The image is found at p = {rate:g} or less."
    return (
        f"{smallest}At a false discovery rate of {rate:g}, at least {needed} of {images} images "
        "must reach it before any is found."
    )


def adjusted(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values adjusted for many images by Benjamini and Hochberg (1995).

    An image is a discovery at a false discovery rate q if its adjusted value is at most q.
    p-values that share their controls are positively dependent, under which the procedure holds
    (Bates et al. 2023).

    Examples:
        >>> adjusted([0.01, 0.04, 0.5])
        (0.03, 0.06, 0.5)
    """
    values = false_discovery_control(np.asarray(p_values), method="bh")
    return tuple(round(float(value), 12) for value in values)
