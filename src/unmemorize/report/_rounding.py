"""Numbers as a page prints them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

Rounding = Literal["nearest", "down", "up"]
_ROUNDINGS: Mapping[str, Callable[[float], float]] = {
    "nearest": round,
    "down": math.floor,
    "up": math.ceil,
}


def rounded(value: float, digits: int, rounding: Rounding = "nearest") -> str:
    """Print a number with so many decimals.

    Examples:
        >>> rounded(41.21, 1, "down"), rounded(41.21, 1, "up"), rounded(-0.04, 1), rounded(1000, 0)
        ('41.2', '41.3', '0.0', '1,000')
    """
    step = 10**digits
    scaled = _ROUNDINGS[rounding](round(value * step, 6)) / step
    return f"{scaled + 0.0:,.{digits}f}"
