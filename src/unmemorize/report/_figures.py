"""Numbers and verdicts on a page, each with its place in ``report.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from unmemorize.report._numbers import flat
from unmemorize.report._rounding import Rounding, rounded


class Figures:
    """Prints numbers as ``<data value= data-of=>`` elements.

    Args:
        numbers: what ``report.json`` holds.
    """

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        self._values = flat(numbers)
        self._names = {
            name[:end]
            for name, value in self._values.items()
            if value is not None
            for end in (len(name), *(at for at, letter in enumerate(name) if letter == "."))
        }

    def has(self, name: str) -> bool:
        """Tell whether there is a number, or an object of numbers, of this name."""
        return name in self._names

    def __call__(self, name: str, digits: int = 0, rounding: Rounding = "nearest") -> Markup:
        """Print a number.

        Args:
            name: its place in ``report.json``, such as "before.copies".
            digits: decimals.
            rounding: bounds are rounded outwards, so what is printed is true.

        Returns:
            The element, or a dash where the number is None.
        """
        value: Any = self._values.get(name)
        if value is None:
            return Markup("–")
        return _element(name, value, rounded(value, digits, rounding))

    def short(self, name: str) -> Markup:
        """Print a number with one decimal, and a whole one without."""
        value: Any = self._values.get(name)
        return self(name, 0 if value is None or value == round(value) else 1)

    def words(self, name: str) -> Markup:
        """Print a text, such as that of "prompts.0.verdict"."""
        text = self._values[name]
        return _element(name, text, text)


def _element(name: str, value: Any, shown: str) -> Markup:
    return Markup('<data value="{}" data-of="{}">{}</data>').format(value, name, shown)
