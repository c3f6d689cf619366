"""Whether a copy survives with the neurons off: by measurement, or else by how the search ended."""

from __future__ import annotations

from collections.abc import Sequence

COPY_LEVEL = 0.7
"""Similarity to a training image above which an image counts as a copy. The memorization rates of
published attacks on memorization use this SSCD level."""


def copy_warning(copy_scores: Sequence[float], theta_exhausted: bool | None) -> str:
    """Return a warning where a copy is left, or may be left, with a prompt's neurons off.

    A measurement outweighs the search: one seed that still copies is a warning, and where no seed
    copies, a search that ran out of candidates is none. Without a measurement, nothing is said
    about a copy: the images decide.

    Args:
        copy_scores: per seed the similarity to the training image in [-1, 1], with the neurons
            off. Empty where it was not measured.
        theta_exhausted: whether the initial selection ended above the threshold, see
            `Localization`.

    Returns:
        The warning, or an empty string.

    Examples:
        >>> copy_warning([0.1, 0.91], theta_exhausted=False)
        'a copy is left in 1 of 2 images (worst 0.91)'
        >>> copy_warning([0.1, 0.2], theta_exhausted=True)
        ''
        >>> copy_warning([], theta_exhausted=True)
        'theta exhausted, no image measured'
    """
    if copy_scores:
        copies = sum(score > COPY_LEVEL for score in copy_scores)
        if not copies:
            return ""
        worst = max(copy_scores)
        return f"a copy is left in {copies} of {len(copy_scores)} images (worst {worst:.2f})"
    return "theta exhausted, no image measured" if theta_exhausted else ""
