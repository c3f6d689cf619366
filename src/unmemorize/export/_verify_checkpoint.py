"""Compare an edited diffusers folder with its base, file by file."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from unmemorize._errors import ExportError
from unmemorize._files import read_json
from unmemorize._paths import is_folder
from unmemorize.export._carried import AnyEditFile
from unmemorize.export._changes import Difference, ExpectedRows, tensor_changes
from unmemorize.export._expected import ExpectedLayer, expected_in_checkpoint
from unmemorize.export._model_folder import (
    CARD,
    EDIT,
    NEURONS,
    is_license,
    loadable_index,
    stored_key,
)
from unmemorize.export._rows import read_header
from unmemorize.generation import WEIGHTS_FILE
from unmemorize.pipelines import INDEX, Model, model_files

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


def checkpoint_changes(
    edited: Path, base: Path, model: Model, file: AnyEditFile
) -> Iterator[Difference]:
    """List all differences between an edited folder and its base, and edits that are missing.

    With LoRAs in effect, the layers that they change differ, too. What no program loads may differ:
    model card, licenses, pictures, and what git and the Hub put into folders.

    Args:
        edited: the edited folder.
        base: the folder it was made from.
        model: the base, loaded, with the LoRAs that the edited folder holds.
        file: what should be edited.

    Raises:
        ExportError: a folder is missing or a file is damaged.
    """
    for folder in (edited, base):
        if not is_folder(folder):
            raise ExportError(f"{folder}: no such folder. Give two folders of diffusers models.")
    loaded = set(model_files(base))
    present = {path.relative_to(edited) for path in edited.rglob("*") if path.is_file()}
    expected = {
        Path(component): _by_key(base / component, layers)
        for component, layers in expected_in_checkpoint(model, file).items()
    }
    for name in sorted(loaded | {name for name in present if not _is_harmless(name)}):
        is_edited = name.suffix == ".safetensors" and name.parent in expected
        if name not in loaded or name not in present:
            yield Difference(str(name), "", (), expected=False)
        elif is_edited:
            yield from tensor_changes(edited / name, base / name, str(name), expected[name.parent])
        elif not filecmp.cmp(base / name, edited / name, shallow=False):
            yield from _differences(edited / name, base / name, name)


def _by_key(
    folder: Path, layers: Mapping[str, ExpectedLayer]
) -> dict[str, tuple[ExpectedRows, ...]]:
    """Find layers among the tensors of a component's files."""
    stored = {key for path in folder.glob("*.safetensors") for key in read_header(path).tensors}
    names = [(path, kind) for path in layers for kind in ("weight", "bias")]
    keys = {each: stored_key(stored, ".".join(each)) for each in names}
    return {key: (ExpectedRows(layers[path], kind),) for (path, kind), key in keys.items() if key}


def _differences(edited: Path, base: Path, name: Path) -> Iterator[Difference]:
    if name.suffix == ".safetensors":
        yield from tensor_changes(edited, base, str(name), {})
    elif name != Path(INDEX) or (
        read_json(edited, ExportError, "index of a model") != loadable_index(base.parent)
    ):
        yield Difference(str(name), "", (), expected=False)


def _is_harmless(name: Path) -> bool:
    if name.parts[0].startswith((".git", ".cache")) or is_license(name):
        return True
    return len(name.parts) == 1 and (
        name.name in (NEURONS, EDIT, CARD)
        or fnmatchcase(name.name, WEIGHTS_FILE.format("*"))
        or name.suffix.lower() in _PICTURES
    )
