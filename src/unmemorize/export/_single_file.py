"""A checkpoint in one file, in which an edit is made for good.

The file may name its tensors as it likes: the edited layers are found in it by their values.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor

from unmemorize._errors import ExportError
from unmemorize._files import temporary_file
from unmemorize._paths import exists
from unmemorize.export._carried import as_metadata, edit_of
from unmemorize.export._exportable import AnyEdit, Exportable, exportable
from unmemorize.export._rows import (
    Rewrite,
    copy_with_metadata,
    read_header,
    rewrite_rows,
)
from unmemorize.generation import LayerChange, has_closed_form, save_tensors, text_projections
from unmemorize.neurons import NeuronFile, Neurons
from unmemorize.pipelines import Model, text_rows_only

_AVERAGED = "model_ema."
"""Weights that the original programs keep for training and do not load."""
_JOINED = (1, 3)
"""How many layers of the same size a tensor may hold: one, or queries, keys and values (Stable
Diffusion 3, Flux, the text encoders of OpenCLIP)."""


@dataclass(frozen=True)
class Location:
    """Where the rows of a layer are in a single file.

    Args:
        path: of the layer.
        name: "weight" or "bias".
        key: the name of the tensor.
        first_row: the row of it that is output 0 of the layer.
        rows: how many outputs the layer has.
    """

    path: str
    name: str
    key: str
    first_row: int
    rows: int


def export_single_file(
    pipe: DiffusionPipeline | Model,
    neurons: AnyEdit | None,
    base: str | Path,
    output: str | Path,
) -> Path:
    """Copy a single-file checkpoint and edit the weights in it.

    Of neurons, the rows are multiplied by the scale. The copy carries the neuron file or edit file
    in its metadata; tensors of trained weights are written into the same folder. Every other byte
    of its tensors is the base's.

    Args:
        pipe: the model, loaded from a diffusers folder with the same weights.
        neurons: a neuron file, an edit file or an edit, or neurons to switch off (also as a
            localization).
        base: the single file (safetensors), in any layout.
        output: where the copy goes. It appears when it is complete.

    Returns:
        The copy.

    Raises:
        ExportError: there is no edit (None), the copy exists, a LoRA is in effect, the base does
            not hold a layer's weights exactly once, or a file cannot be read or written.
        NeuronError, EditError: the edit belongs to another model.
    """
    edit = exportable(pipe, neurons)
    refuse_loras(edit.model)
    base, output = Path(base), Path(output)
    if exists(output):
        raise ExportError(f"{output}: exists already. Choose another file, or delete it first.")
    rewrites = [
        Rewrite(
            layer.key, layer.first_row, layer.rows, partial(edit.changed, layer.path, layer.name)
        )
        for layer in layers_in_single_file(base, edit)
    ]
    with temporary_file(output, ExportError) as (copy, file):
        copy_with_metadata(base, file, as_metadata(edit.file))
        file.flush()
        rewrite_rows(copy, rewrites)
        save_tensors(edit_of(edit.file), output.parent)
        shutil.copymode(base, copy)
        copy.replace(output)
    return output


def check_single_file(
    pipe: DiffusionPipeline | Model, base: str | Path, layers: Iterable[str] | None = None
) -> None:
    """Make sure, before there is an edit, that a single file can be edited as the model is.

    It must hold weight and bias of each layer once.

    Args:
        pipe: the model.
        base: the single file.
        layers: the paths of the layers that will be edited, of which only weights change. By
            default, the value layers with their biases and the keys that a closed form edits.

    Raises:
        ExportError: a LoRA is in effect, the file cannot be read, or it holds another model.
    """
    model = Model.of(pipe)
    refuse_loras(model)
    nothing = NeuronFile.of(model, Neurons())
    if layers is None:
        values = (path for path in model.value_layers if not text_rows_only(path))
        projections = text_projections(model) if has_closed_form(model) else ()
        changes = dict.fromkeys(projections, LayerChange())
        changes |= dict.fromkeys(values, LayerChange(factors={0: 0.0}))  # of a neuron and its bias
    else:
        changes = dict.fromkeys(layers, LayerChange())
    layers_in_single_file(Path(base), Exportable(model, nothing, changes))


def refuse_loras(model: Model) -> None:
    """Refuse a model with LoRAs, whose layers may be joined to others in a single file.

    Raises:
        ExportError: a LoRA is in effect.
    """
    if model.loras:
        raise ExportError(
            f"{model.name}: single files may join a layer that a LoRA changes with others, so they "
            "are written without LoRAs alone. Export a checkpoint, which holds base, LoRAs and "
            f"edit, or leave --lora out to edit {model.base_name} itself."
        )


def layers_in_single_file(base: Path, edit: Exportable) -> tuple[Location, ...]:
    """Find what an edit changes in a single file. Each tensor of it is read once at most.

    Raises:
        ExportError: the file cannot be read, or does not hold a layer's weights exactly once.
    """
    wanted = {
        (path, name): weights
        for path in edit.changes
        for name, weights in edit.weights(path).items()
        if name == "weight" or edit.changes_bias(path)
    }
    owners: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for owner, weights in wanted.items():
        owners[_digest(weights)].append(owner)
    found: dict[tuple[str, str], list[Location]] = {owner: [] for owner in wanted}
    sizes = {(weights.shape, weights.dtype) for weights in wanted.values()}
    for key, first_row, rows in _pieces(base, sizes):
        for owner in owners.get(_digest(rows), ()):
            found[owner].append(Location(*owner, key, first_row, len(rows)))
    for (path, name), locations in found.items():
        if len(locations) != 1:
            raise ExportError(
                f"{base}: it holds the {name} of {path} {len(locations)} times instead of once. "
                "Load the model from a folder with the same weights, in the same precision "
                "(--dtype)."
            )
    return tuple(location for (location,) in found.values())


def _pieces(
    base: Path, sizes: Collection[tuple[torch.Size, torch.dtype]]
) -> Iterator[tuple[str, int, Tensor]]:
    """Yield all rows of a file that may be a layer of one of these sizes: name, first row, rows."""
    stored = read_header(base).tensors
    with safe_open(base, framework="pt") as tensors:
        for key, entry in stored.items():
            if key.startswith(_AVERAGED):
                continue
            layers = {
                (shape[0], dtype)
                for shape, dtype in sizes
                for count in _JOINED
                if entry.shape == (count * shape[0], *shape[1:])
            }
            values = tensors.get_tensor(key) if layers else None
            for features, dtype in layers:
                assert values is not None
                for first_row in range(0, len(values), features):
                    yield key, first_row, values[first_row : first_row + features].to(dtype)


def _digest(weights: Tensor) -> bytes:
    """Hash shape, type and bits of a tensor."""
    values = weights.detach().cpu().contiguous()
    described = f"{tuple(values.shape)} {values.dtype}".encode()
    return hashlib.sha256(described + values.view(torch.uint8).numpy().tobytes()).digest()
