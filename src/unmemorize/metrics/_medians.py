"""The two medians of an even number of values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

MedianName = Literal["middle", "lower"]


def lower_median(values: ArrayLike, axis: int | None = None) -> Any:
    """Return the lower of the two values in the middle, as torch and the published code do.

    Args:
        values: at least one number.
        axis: along which the median is taken; None takes all values.

    Examples:
        >>> float(lower_median([4.0, 1.0, 2.0, 3.0]))
        2.0
    """
    return np.quantile(np.asarray(values, dtype=np.float64), 0.5, axis=axis, method="lower")


MEDIANS: Mapping[MedianName, Callable[..., Any]] = {"middle": np.median, "lower": lower_median}
"""By name: the mean of the two values in the middle, or the lower one."""
