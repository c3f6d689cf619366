"""Rates of copies with exact intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from scipy.stats import beta

from unmemorize.mitigation import Copies

CONFIDENCE = 0.95
"""Of the two-sided intervals in tables. The bounds in verdicts are one-sided and were fixed by the
settings of the mitigation."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How many of some images are copies, or have another property.

    Args:
        copies: how many have it.
        images: of how many.
        per_1000: the rate, in images per 1,000.
        low, high: its two-sided Clopper-Pearson interval at `CONFIDENCE`, per 1,000.
    """

    copies: int
    images: int
    per_1000: float
    low: float
    high: float

    @classmethod
    def of(cls, counted: Copies) -> Self:
        """Compute the rate of a count of at least one image.

        Source: Clopper and Pearson (1934).

        Examples:
            >>> rate = Rate.of(Copies(0, 72))
            >>> rate.per_1000, rate.low, round(rate.high, 1)
            (0.0, 0.0, 49.9)
        """
        k, n = counted.copies, counted.seeds
        tail = (1 - CONFIDENCE) / 2
        low = float(beta.ppf(tail, k, n - k + 1)) if k else 0.0
        high = float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
        return cls(copies=k, images=n, per_1000=1000 * k / n, low=1000 * low, high=1000 * high)

    @classmethod
    def maybe(cls, counted: Copies | None) -> Self | None:
        """Compute a rate, or return None where nothing was counted."""
        return cls.of(counted) if counted is not None and counted.seeds else None
