"""Settings check themselves when they are made, each field by its annotation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from math import isfinite
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from unmemorize._errors import UnmemorizeError
from unmemorize._files import refuse_other_type, type_in_words

Seed = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A seed of random numbers: one that every generator takes and that JSON keeps."""


def check_fields(settings: Any, error: type[UnmemorizeError]) -> None:
    """Check the fields of a settings dataclass against their types, ranges and choices.

    Args:
        settings: the settings. Fields that are settings themselves have checked themselves.
        error: what is raised.

    Raises:
        UnmemorizeError: the given ``error``. A value is of another type or out of range.
    """
    cls: Any = type(settings)  # which mypy does not take for hashable
    hints = _hints(cls)
    for name in (each.name for each in fields(settings)):
        expected, value = hints[name], getattr(settings, name)
        if isinstance(expected, type) and is_dataclass(expected):
            way_out = f"Give {expected.__name__}(...)."
            refuse_other_type(name, value, expected, error, way_out)
            continue
        try:
            msgspec.convert(value, expected)
        except msgspec.ValidationError as problem:
            reason = str(problem)
            way_out = f"Choose {' or '.join(_choices(expected)) or 'such a value'}."
            raise error(
                f"{name}={value!r:.60}: {reason[:1].lower()}{reason[1:]}. {way_out}"
            ) from problem
        if isinstance(value, float) and not isfinite(value):
            raise error(f"{name}={value}: not a finite number. Choose a finite one.")


def make_tuple(settings: Any, name: str, error: type[UnmemorizeError], content: str) -> None:
    """Turn a field of a frozen dataclass into a tuple, where it is given as a list or the like.

    Args:
        settings: the dataclass.
        name: the field.
        error: what is raised.
        content: what the tuple should hold, in words.

    Raises:
        UnmemorizeError: the given ``error``. The value is a text, or no collection.
    """
    value = getattr(settings, name)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise error(f"{name}={value!r:.60}: {type_in_words(value)}. Give a tuple of {content}.")
    object.__setattr__(settings, name, tuple(value))


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _choices(expected: Any) -> list[str]:
    """Return the texts that a type allows, alone or in a tuple; none where any will do."""
    if get_origin(expected) is Literal:
        return list(map(str, get_args(expected)))
    return [text for part in get_args(expected) for text in _choices(part)]
