"""The diffusers folder of a loaded model: where it lies and which of its files count."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from unmemorize._errors import ExportError
from unmemorize._files import read_json
from unmemorize.pipelines import Model

CARD = "README.md"
INDEX = "model_index.json"
NEURONS = "unmemorize_neurons.json"
EDIT = "unmemorize_edit.json"
_LOADED_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""What diffusers and transformers load without running code. Files of other formats would hold
the weights once more, unchanged."""


def folder_of(model: Model) -> Path:
    """Find the folder that a model was loaded from, which may lie in the cache of the Hub.

    Raises:
        ExportError: the model was not loaded from files, or they are gone.
    """
    name = str(model.pipe.config.get("_name_or_path") or "")
    denoiser = str(getattr(model.denoiser, "config", {}).get("_name_or_path") or "")
    candidates = [Path(model.loading.model)] if model.loading else []
    if name:
        candidates.append(Path(name))
    if denoiser:
        candidates.append(Path(denoiser).parent)  # the revision that was loaded, also from the Hub
    for folder in candidates:
        if (folder / INDEX).is_file():
            return folder
    raise ExportError(
        f"{name or type(model.pipe).__name__}: it has no files on this machine. "
        "Save it with pipe.save_pretrained, and load it from there."
    )


def model_files(folder: Path) -> list[Path]:
    """List the files of a diffusers model, relative to its folder.

    They are the index and the files that components may be loaded from.

    Raises:
        ExportError: the index is missing or damaged.
    """
    index = read_json(folder / INDEX, ExportError, "index of a model")
    components = [name for name, value in index.items() if isinstance(value, list)]
    files = (
        path
        for name in components
        for path in (folder / name).rglob("*")
        if path.suffix in _LOADED_SUFFIXES and path.is_file()
    )
    return [Path(INDEX), *sorted(path.relative_to(folder) for path in files)]


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
