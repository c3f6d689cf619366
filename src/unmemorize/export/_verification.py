"""Hold whatever `unmemorize export` wrote against the model it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusers import DiffusionPipeline

from unmemorize._errors import EditError, ExportError, NeuronError
from unmemorize._paths import is_folder
from unmemorize.export._carried import AnyEditFile, carried_edit, load_edit_file
from unmemorize.export._changes import Difference
from unmemorize.export._exportable import exportable
from unmemorize.export._model_folder import EDIT, NEURONS
from unmemorize.export._rows import read_header
from unmemorize.export._verify_checkpoint import checkpoint_changes
from unmemorize.export._verify_lora import is_lora, lora_changes
from unmemorize.export._verify_single_file import single_file_changes
from unmemorize.generation import WEIGHTS_FILE
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import INDEX, Lora, Model, folder_of

_TENSORS = WEIGHTS_FILE.format("*")
ArtefactKind = Literal["neuron file", "edit file", "LoRA", "checkpoint", "single file"]


@dataclass(frozen=True)
class Verification:
    """What `verify` compared, and what it saw.

    Args:
        artefact: the file or folder.
        kind: what it is.
        base: the name of the model that it was held against.
        edit: the neuron file or edit file that it is or carries.
        files: the files that were compared with the model; a folder of LoRAs may hold several.
        loras: the LoRAs in effect in that model. A LoRA belongs beside them, a checkpoint holds
            them.
        changes: every difference from the base, and every edit that is missing. A neuron
            file and an edit file have none.
    """

    artefact: Path
    kind: ArtefactKind
    base: str
    edit: AnyEditFile
    files: tuple[Path, ...]
    loras: tuple[Lora, ...] = ()
    changes: tuple[Difference, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the artefact does what its edit says, and nothing else."""
        return all(change.expected for change in self.changes)

    @property
    def unexpected(self) -> tuple[Difference, ...]:
        """The changes that the edit does not ask for, and those that are wrong."""
        return tuple(change for change in self.changes if not change.expected)


def verify(
    artefact: str | Path,
    pipe: DiffusionPipeline | Model,
    *,
    base_file: str | Path | None = None,
) -> Verification:
    """Compare an artefact with the model it was made from.

    A neuron file or an edit file must belong to the model. A checkpoint or a single file may differ
    from its base in the edited layers alone. There, the rows of neurons must be the base's times
    the scale, and a closed-form edit must solve its equations. A LoRA must have this effect when it
    is merged: W + (alpha / rank) B A. Nothing that wrote an artefact is used to check it.

    What was made with LoRAs loaded is compared with the base with the same LoRAs in effect. Then W
    of a LoRA is the weight with them, and a checkpoint holds what they add.

    Args:
        artefact: a neuron file or an edit file (.json), a LoRA (.safetensors) or the folder it was
            written to, a checkpoint folder, or a single-file checkpoint (.safetensors).
        pipe: the base, with the LoRAs of the artefact if it has any.
        base_file: the single file that a single-file checkpoint was made from.

    Returns:
        What was compared. See `Verification.passed`.

    Raises:
        ExportError: the artefact carries no edit, a file is missing or damaged, or ``base_file``
            is missing or does not fit the artefact.
        NeuronError, EditError: the edit is malformed, or another model's.

    Examples:
        >>> import tempfile
        >>> from unmemorize import Model, NeuronFile, Neurons, export_lora
        >>> model = Model.load("testbed", device="cpu")
        >>> neurons = NeuronFile.of(model, Neurons({next(iter(model.value_layers)): [4]}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = export_lora(model, neurons, folder)
        ...     verification = verify(folder, model)
        >>> verification.kind, verification.passed
        ('LoRA', True)
    """
    artefact, model = Path(artefact), Model.of(pipe)
    kind = _kind_of(artefact)
    if kind != "single file" and base_file is not None:
        raise ExportError(f"{artefact}: a {kind}, not a single file. Leave the base file out.")
    if kind == "checkpoint":
        return _verify_checkpoint(artefact, model)
    if kind == "LoRA":
        return _verify_loras(artefact, model)
    if kind == "single file":
        return _verify_single_file(artefact, model, base_file)
    edit = load_edit_file(artefact)
    with _naming(artefact):
        edit.check(model)
    kind = "neuron file" if isinstance(edit, NeuronFile) else "edit file"
    return Verification(artefact, kind, model.name, edit, (artefact,), model.loras)


def _kind_of(artefact: Path) -> ArtefactKind:
    if is_folder(artefact):
        return "checkpoint" if (artefact / INDEX).exists() else "LoRA"
    if artefact.suffix != ".safetensors":
        return "neuron file"
    return "LoRA" if is_lora(read_header(artefact)) else "single file"


@contextmanager
def _naming(artefact: Path) -> Iterator[None]:
    """Name the artefact in errors about the edit that it carries."""
    try:
        yield
    except (ExportError, NeuronError, EditError) as problem:
        raise type(problem)(f"{artefact}: {problem}") from problem


def _verify_checkpoint(folder: Path, model: Model) -> Verification:
    edit = load_edit_file(folder / (EDIT if (folder / EDIT).exists() else NEURONS))
    with _naming(folder):
        exportable(model, edit)
    changes = tuple(checkpoint_changes(folder, folder_of(model), model, edit))
    return Verification(folder, "checkpoint", model.name, edit, (folder,), model.loras, changes)


def _verify_loras(artefact: Path, model: Model) -> Verification:
    files = [artefact]
    if is_folder(artefact):
        found, tensors = (set(artefact.glob(each)) for each in ("*.safetensors", _TENSORS))
        files = sorted(found - tensors)
    if not files:
        raise ExportError(
            f"{artefact}: it holds neither a model ({INDEX}) nor a LoRA (.safetensors). "
            "Check the path."
        )
    edit = carried_edit(files[0])
    with _naming(files[0]):
        exportable(model, edit)
    changes: list[Difference] = []
    for file in files:
        if carried_edit(file) != edit:
            raise ExportError(
                f"{file}: its edit is not that of {files[0].name}. Verify one file at a time."
            )
        changes += lora_changes(file, model, edit)
    return Verification(
        artefact, "LoRA", model.name, edit, tuple(files), model.loras, tuple(changes)
    )


def _verify_single_file(artefact: Path, model: Model, base_file: str | Path | None) -> Verification:
    edit = carried_edit(artefact)
    with _naming(artefact):
        exportable(model, edit)
    if base_file is None:
        raise ExportError(
            f"{artefact}: a single-file checkpoint is compared with the file it was made from. "
            "Name that file, too."
        )
    changes = tuple(single_file_changes(artefact, Path(base_file), model, edit))
    return Verification(artefact, "single file", model.name, edit, (artefact,), (), changes)
