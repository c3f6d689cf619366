"""Compare an edited diffusers folder with its base, file by file."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from pathlib import Path

from unmemorize._errors import ExportError
from unmemorize.export._changes import Change, tensor_changes
from unmemorize.export._model_folder import CARD, NEURONS, model_files
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model, name_of_denoiser

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


def checkpoint_changes(
    edited: Path, base: Path, model: Model, neurons: NeuronFile
) -> Iterator[Change]:
    """List all differences between an edited folder and its base, and edits that are missing.

    What no program loads may differ: model card, licenses, pictures, and what git and the Hub put
    into folders.

    Args:
        edited: the edited folder.
        base: the folder it was made from.
        model: the base, loaded.
        neurons: what should be scaled.

    Raises:
        ExportError: a folder is missing or a file is damaged.
    """
    for folder in (edited, base):
        if not folder.is_dir():
            raise ExportError(f"{folder}: no such folder. Give two folders of diffusers models.")
    loaded = set(model_files(base))
    present = {path.relative_to(edited) for path in edited.rglob("*") if path.is_file()}
    denoiser = Path(name_of_denoiser(model.pipe))
    rows = {
        f"{path}.{kind}": indices
        for path, indices in neurons.neurons.layers.items()
        for kind in ("weight", "bias")
    }
    for name in sorted(loaded | {name for name in present if not _is_harmless(name)}):
        is_edited = name.suffix == ".safetensors" and name.parent == denoiser
        if name not in loaded or name not in present:
            yield Change(str(name), "", (), expected=False)
        elif is_edited:
            yield from tensor_changes(edited / name, base / name, str(name), rows, neurons.scale)
        elif not filecmp.cmp(base / name, edited / name, shallow=False):
            yield from _differences(edited / name, base / name, name)


def _differences(edited: Path, base: Path, name: Path) -> Iterator[Change]:
    if name.suffix == ".safetensors":
        yield from tensor_changes(edited, base, str(name), {}, 1.0)
    else:
        yield Change(str(name), "", (), expected=False)


def _is_harmless(name: Path) -> bool:
    if name.parts[0].startswith((".git", ".cache")):
        return True
    return len(name.parts) == 1 and (
        name.name in (NEURONS, CARD) or name.stem == "LICENSE" or name.suffix.lower() in _PICTURES
    )
