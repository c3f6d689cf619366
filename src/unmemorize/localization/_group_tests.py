"""Tests of groups: a group that does nothing is dropped as a whole, others are halved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unmemorize.localization._effects import Neuron


def measure_by_halving(
    group: Sequence[Neuron], change: Callable[[Sequence[Neuron]], float], level: float
) -> dict[Neuron, float]:
    """Measure the joint change by a group, and its halves if it exceeds the noise level.

    Args:
        group: at least one neuron.
        change: returns the joint change by some neurons.
        level: the noise level.

    Returns:
        neuron -> the change by the last group in which it was measured. It exceeds the level only
        if the neuron was measured alone.

    Examples:
        >>> group = [("a", index) for index in range(8)]
        >>> changes = measure_by_halving(group, lambda some: 2.0 * (("a", 3) in some), level=0.5)
        >>> [neuron for neuron, value in changes.items() if value > 0.5]
        [('a', 3)]
    """
    value = change(group)
    if value <= level or len(group) == 1:
        return dict.fromkeys(group, value)
    middle = len(group) // 2
    return {
        **measure_by_halving(group[:middle], change, level),
        **measure_by_halving(group[middle:], change, level),
    }
