"""The diffusers folder of a loaded model: where it lies and which of its files count."""

from __future__ import annotations

from pathlib import Path

from unmemorize._errors import ExportError
from unmemorize._files import read_json
from unmemorize.pipelines._model import Model

INDEX = "model_index.json"
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
