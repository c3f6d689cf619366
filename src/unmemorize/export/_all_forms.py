"""One edit in every form that its model allows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from unmemorize._errors import ExportError, UnmemorizeError
from unmemorize.export._card import model_card
from unmemorize.export._carried import AnyEditFile, carried_edit, edit_of, load_edit_file
from unmemorize.export._checkpoint import bake
from unmemorize.export._lora import export_lora
from unmemorize.export._model_folder import EDIT
from unmemorize.export._single_file import export_single_file
from unmemorize.generation import EditFile
from unmemorize.pipelines import Model

CHECKPOINT = "edited"
"""The folder of the edited model in the run folder."""
_LORA = "lora"
_SINGLE_FILE = "edited.safetensors"


@dataclass(frozen=True)
class Exported:
    """What an edit was written as.

    Args:
        files: path -> what it is.
        refused: for each form that the model does not allow, that it is missing and why.
    """

    files: Mapping[Path, str]
    refused: tuple[str, ...]


def export_all(
    model: Model, file: EditFile, folder: Path, *, single_file: Path | None = None
) -> Exported:
    """Write an edit as an edited model, as LoRA files, and as one file where that is asked for.

    Args:
        model: the unedited model.
        file: the edit.
        folder: where everything goes. A model under this edit that is there already is kept.
        single_file: the model as one file, of which an edited copy is written, too. A copy that is
            there already is kept if it carries this edit.
    """
    checkpoint, lora, one = folder / CHECKPOINT, folder / _LORA, folder / _SINGLE_FILE
    loras = " and ".join(map(str, model.loras))
    files: dict[Path, str] = {}
    refused = []
    try:
        if not _holds(file, checkpoint / EDIT, load_edit_file):
            shutil.rmtree(checkpoint, ignore_errors=True)
            bake(model, file, checkpoint, card=model_card(model, file))
        files[checkpoint] = f"edited model, with {loras} in it" if loras else "edited model"
    except ExportError as problem:
        refused.append(f"No checkpoint is written: {problem}")
    shutil.rmtree(lora, ignore_errors=True)  # small, and a killed run may have left a part of it
    try:
        written = export_lora(model, file, lora, card=model_card(model, file, lora=True))
        what = f"edit as a LoRA, to load beside {loras}" if loras else "edit as a LoRA"
        files |= dict.fromkeys(written, what)
    except ExportError as problem:
        refused.append(f"No LoRA is written: {problem}")
    if not _holds(file, one, carried_edit):
        one.unlink(missing_ok=True)  # it carries the edit of before
    if single_file is not None:
        try:
            if not one.exists():
                export_single_file(model, file, single_file, one)
            files[one] = "edited model in one file"
        except ExportError as problem:
            refused.append(f"No single file is written: {problem}")
    return Exported(files, tuple(refused))


def _holds(file: EditFile, path: Path, read: Callable[[Path], AnyEditFile]) -> bool:
    """Tell whether an artefact is there already, and carries this edit."""
    try:
        return edit_of(read(path)).to_json() == file.edit.to_json()
    except UnmemorizeError:  # it is missing or damaged
        return False
