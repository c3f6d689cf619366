"""The neuron file or edit file that an artefact carries, and what it asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmemorize._errors import ExportError, NeuronError
from unmemorize._files import as_path, from_json, parse_json, read_json, to_json
from unmemorize._words import counted
from unmemorize.export._rows import Header, read_header
from unmemorize.generation import (
    ClosedFormEdit,
    ClosedFormNeuronEdit,
    CombinedEdit,
    Edit,
    EditFile,
    NeuronEdit,
    PrunedEdit,
    WeightEdit,
)
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Lora

AnyEditFile = NeuronFile | EditFile
"""What can be exported: neurons with a scale, or any other edit."""
KEY = "unmemorize"
"""The name under which the metadata hold it."""
LORAS = "unmemorize_loras"
"""The name under which the metadata of a LoRA hold the LoRAs beside which it belongs."""
_EDIT_SCHEMA = "unmemorize.edit/"
_LARGEST = 20_000_000
"""Characters. Programs refuse safetensors files whose header is above 100 MB."""


def edit_of(file: AnyEditFile) -> Edit:
    """Return the edit that a file asks for."""
    return NeuronEdit(file.neurons, file.scale) if isinstance(file, NeuronFile) else file.edit


def load_edit_file(path: str | Path) -> AnyEditFile:
    """Read a neuron file or an edit file, whichever it is.

    Raises:
        NeuronError, EditError: the file is missing, malformed or of an unknown schema.
    """
    file = as_path(path, NeuronError, "neuron file")
    return _from_json(read_json(file, NeuronError, "neuron file or edit file"), file)


def describe(edit: Edit) -> str:
    """Describe an edit in a few words, such as "3 value neurons switched off".

    Examples:
        >>> from unmemorize import Erased
        >>> describe(ClosedFormEdit((Erased("a cat", weight=3.0),)))
        '1 caption moved (closed form, weight 3)'
    """
    if isinstance(edit, NeuronEdit):
        state = "switched off" if not edit.scale else f"at {edit.scale:g} of full strength"
        return f"{counted(len(edit.neurons), 'value neuron')} {state}"
    if isinstance(edit, ClosedFormEdit):
        captions = counted(len(edit.erase), "caption")
        weights = " and ".join(f"{weight:g}" for weight in sorted({e.weight for e in edit.erase}))
        return f"{captions} moved (closed form, weight {weights})"
    if isinstance(edit, ClosedFormNeuronEdit):
        neurons = counted(len(edit.owners()), "value neuron")
        return f"{neurons} moved for {counted(len(edit.reread), 'caption')} (closed form)"
    if isinstance(edit, PrunedEdit):
        pruned = counted(sum(map(len, edit.entries.values())), "weight")
        return f"{pruned} of {counted(len(edit.entries), 'layer')} set to zero"
    if isinstance(edit, WeightEdit):
        tensors = counted(len(edit.differences), "tensor")
        by = "" if edit.rank is None else f" by matrices of rank {edit.rank}"
        return f"{tensors} of weights moved{by} ({edit.source or 'training'})"
    if isinstance(edit, CombinedEdit):
        return ", then ".join(map(describe, edit.parts))
    return f"edit of kind {edit.kind}"


def neurons_of(edit: Edit) -> list[tuple[str, tuple[int, ...], float]]:
    """List the neurons of an edit: layer, indices and scale."""
    if isinstance(edit, NeuronEdit):
        return [(path, indices, edit.scale) for path, indices in edit.neurons.layers.items()]
    parts = edit.parts if isinstance(edit, CombinedEdit) else ()
    return [row for part in parts for row in neurons_of(part)]


def readings_of(edit: Edit, kind: type[Edit]) -> list[tuple[str, str]]:
    """List what the closed forms of one kind in an edit do: caption, and what it reads like.

    Args:
        edit: the edit.
        kind: `ClosedFormEdit`, or `ClosedFormNeuronEdit`.
    """
    if isinstance(edit, ClosedFormEdit) and kind is ClosedFormEdit:
        return [(erased.caption, erased.guide) for erased in edit.erase]
    if isinstance(edit, ClosedFormNeuronEdit) and kind is ClosedFormNeuronEdit:
        return [(each.caption, each.guide) for each in edit.reread]
    parts = edit.parts if isinstance(edit, CombinedEdit) else ()
    return [reading for part in parts for reading in readings_of(part, kind)]


def as_metadata(file: AnyEditFile) -> dict[str, str]:
    """Write a file as metadata; the same content gives the same text.

    The tensors that an edit names are written beside it, see `save_tensors`.

    Raises:
        ExportError: the edit is too large for metadata, which other programs read as a whole.
    """
    text = json.dumps(file.to_json(), sort_keys=True)
    if len(text) > _LARGEST:
        raise ExportError(
            f"{file.model}: this edit takes {len(text) / 1e6:.0f} MB, too much for the metadata of "
            "one file. Export a checkpoint, which holds the edit as a file of its own."
        )
    return {KEY: text}


def carried_edit(path: str | Path) -> AnyEditFile:
    """Read what a LoRA or a single-file export carries. Tensors of trained weights lie beside it.

    Raises:
        ExportError: the file carries none, or cannot be read.
        NeuronError, EditError: what it carries is malformed.
    """
    path = Path(path)
    text = read_header(path).metadata.get(KEY)
    if text is None:
        raise ExportError(
            f"{path}: it carries no neurons and no edit. Was it made by unmemorize export lora or "
            "single-file?"
        )
    return _from_json(parse_json(text, NeuronError, f"{path}: its neurons are damaged"), path)


def loras_as_metadata(loras: Sequence[Lora]) -> dict[str, str]:
    """Write LoRAs as metadata; none without any."""
    return {LORAS: json.dumps(to_json(_Beside(tuple(loras))), sort_keys=True)} if loras else {}


def carried_loras(header: Header) -> tuple[Lora, ...]:
    """Read the LoRAs beside which a LoRA belongs.

    Raises:
        ExportError: they are damaged.
    """
    text = header.metadata.get(LORAS)
    if text is None:
        return ()
    problem = f"{LORAS}: damaged in the metadata"
    content = parse_json(text, ExportError, problem)
    return from_json(_Beside, content, ExportError, problem, "Export it again.").loras


@dataclass(frozen=True)
class _Beside:
    loras: tuple[Lora, ...]


def same_loras(some: Sequence[Lora], others: Sequence[Lora]) -> bool:
    """Tell whether LoRAs are the same by strengths and, where known, by their files."""
    return len(some) == len(others) and all(
        one.strengths == other.strengths
        and (None in (one.sha256, other.sha256) or one.sha256 == other.sha256)
        for one, other in zip(some, others, strict=True)
    )


def _from_json(content: Mapping[str, Any], path: Path) -> AnyEditFile:
    if str(content.get("schema")).startswith(_EDIT_SCHEMA):
        return EditFile.from_json(content, path)
    return NeuronFile.from_json(content, str(path))
