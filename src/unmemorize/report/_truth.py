"""Known neurons, and how well localization found them."""

from __future__ import annotations

from collections.abc import Mapping

from unmemorize.neurons import Neurons

Truth = Mapping[str, Neurons]
"""Prompt text -> the neurons that are known to carry its image."""


def precision_recall(localized: Neurons, known: Neurons) -> tuple[float, float]:
    """Compare localized neurons with known ones.

    Args:
        localized: what localization left.
        known: the true neurons, at least one.

    Returns:
        The share of localized neurons that are known, and the share of known neurons that were
        localized. Both are 0 where nothing was localized.

    Examples:
        >>> precision_recall(Neurons({"layer": [1, 2]}), Neurons({"layer": [2, 3, 4, 5]}))
        (0.5, 0.25)
    """
    hits = len(localized & known)
    precision = hits / len(localized) if localized else 0.0
    return precision, hits / len(known)
