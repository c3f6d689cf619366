"""Which detectors and methods are compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unmemorize._errors import MitigationError
from unmemorize._registry import Registry
from unmemorize.detection import DETECTORS, Detector, as_detector
from unmemorize.methods import MITIGATIONS, Mitigation, at_strength, method_of, refinement_of

ALL, NOTHING = "all", "none"


def chosen_detectors(text: str = ALL) -> tuple[Detector, ...]:
    """Make the detectors that a list names, each with its default settings.

    Args:
        text: "all", "none", or names with commas between.

    Raises:
        ThresholdError: a name is unknown.

    Examples:
        >>> [detector.name for detector in chosen_detectors("dsm,noise-magnitude")]
        ['dsm', 'noise-magnitude']
    """
    return tuple(as_detector(name) for name in _names(text, DETECTORS))


def chosen_methods(text: str = ALL, *, grid: bool = True) -> tuple[Mitigation, ...]:
    """Make the methods that a list names, one for each strength.

    Args:
        text: "all", "none", or names with commas between. NAME=STRENGTH is one strength.
        grid: whether a name without a strength stands for the whole grid of the method, or for its
            own default.

    Raises:
        MitigationError: a name is unknown, or a strength is not possible.

    Examples:
        >>> [method.strength for method in chosen_methods("random-tokens,wanda=0.02")]
        [1.0, 4.0, 10.0, 0.02]
    """
    methods: dict[tuple[str, float], Mitigation] = {}
    for name in _names(text, MITIGATIONS):
        method = method_of(name)
        strengths = method.grid if grid and "=" not in name else (method.strength,)
        for strength in strengths:
            methods[method.name, strength] = at_strength(method, strength)
    return tuple(methods.values())


def needs_localization(methods: Iterable[Mitigation]) -> bool:
    """Tell whether a method needs localized neurons, see `refinement_of`."""
    return any(refinement_of(method) for method in methods)


def _names(text: str, registry: Registry[Any]) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == [ALL]:
        return registry.names()
    if names == [NOTHING]:
        return ()
    if not names or ALL in names or NOTHING in names:
        raise MitigationError(
            f"{text!r}: not a list. Write all, none, or names with commas between: "
            f"{', '.join(registry.names())}."
        )
    return tuple(dict.fromkeys(names))
