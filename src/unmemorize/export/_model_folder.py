"""Names in the diffusers folder of an edited model."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

CARD = "README.md"
NEURONS = "unmemorize_neurons.json"
EDIT = "unmemorize_edit.json"


def is_license(name: Path) -> bool:
    """Tell whether a file, named relative to the folder of a model, holds its license."""
    return len(name.parts) == 1 and name.name.startswith("LICENSE")


def stored_key(stored: Collection[str], name: str) -> str | None:
    """Find a weight of a network among the tensors of its files; None if it is not there once.

    Releases of transformers put modules into others or take them out, so names may begin with more
    or less.
    """
    if name in stored:
        return name
    alike = {key for key in stored if key.endswith(f".{name}") or name.endswith(f".{key}")}
    return alike.pop() if len(alike) == 1 else None
