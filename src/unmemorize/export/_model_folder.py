"""Names in the diffusers folder of an edited model."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from unmemorize._errors import ExportError
from unmemorize._files import read_json
from unmemorize.pipelines import INDEX

CARD = "README.md"
NEURONS = "unmemorize_neurons.json"
EDIT = "unmemorize_edit.json"
CHECKS_ONLY = {"safety_checker": "*.safetensors", "feature_extractor": "*.json"}
"""Components that look at finished images, and the files they are loaded from. Pipelines are often
loaded without them, and then diffusers does not download their files."""


def loadable_index(folder: Path) -> dict[str, Any]:
    """Return the index of a model; it names no component of `CHECKS_ONLY` without files.

    Raises:
        ExportError: the index is missing or damaged.
    """
    index = dict(read_json(folder / INDEX, ExportError, "index of a model"))
    for name, files in CHECKS_ONLY.items():
        if name in index and not any((folder / name).glob(files)):
            index[name] = [None, None]
    return index


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
