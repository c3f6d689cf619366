"""A checkpoint in one file, in which an edit is made for good.

The file may name its tensors as it likes: the edited layers are found in it by their values.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor

from unmemorize._errors import ExportError
from unmemorize._files import temporary_file
from unmemorize.export._carried import AnyEditFile, as_metadata, edit_of
from unmemorize.export._exportable import Exportable, exportable
from unmemorize.export._rows import (
    Rewrite,
    StoredTensor,
    copy_with_metadata,
    read_header,
    rewrite_rows,
)
from unmemorize.generation import LayerChange, save_tensors
from unmemorize.neurons import NeuronFile, Neurons
from unmemorize.pipelines import Model, text_rows_only

_AVERAGED = "model_ema."
"""Weights that the original programs keep for training and do not load."""
_PROJECTIONS_BEFORE = (0, 2)
"""How many projections of the same size a tensor holds in front of the values: none, or queries
and keys (Stable Diffusion 3 and Flux)."""


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
    pipe: DiffusionPipeline | Model, neurons: AnyEditFile, base: str | Path, output: str | Path
) -> Path:
    """Copy a single-file checkpoint and edit the weights in it.

    Of neurons, the rows are multiplied by the scale. The copy carries the neuron file or edit file
    in its metadata; tensors of trained weights are written into the same folder. Every other byte
    of its tensors is the base's.

    Args:
        pipe: the model, loaded from a diffusers folder with the same weights.
        neurons: what to switch off and the scale (0 for off), or the file of another edit.
        base: the single file (safetensors), in any layout.
        output: where the copy goes. It appears when it is complete.

    Returns:
        The copy.

    Raises:
        ExportError: the copy exists, a LoRA is in effect, the base does not hold a layer's weights
            exactly once, or a file cannot be read or written.
        NeuronError, EditError: the edit belongs to another model.
    """
    edit = exportable(pipe, neurons)
    refuse_loras(edit.model)
    base, output = Path(base), Path(output)
    if output.exists():
        raise ExportError(f"{output}: exists already. Choose another file, or delete it first.")
    rewrites = {
        key: Rewrite(layer.first_row, layer.rows, partial(edit.changed, layer.path, layer.name))
        for key, layer in layers_in_single_file(base, edit).items()
    }
    with temporary_file(output, ExportError) as (copy, file):
        copy_with_metadata(base, file, as_metadata(neurons))
        file.flush()
        rewrite_rows(copy, rewrites)
        save_tensors(edit_of(neurons), output.parent)
        shutil.copymode(base, copy)
        copy.replace(output)
    return output


def check_single_file(pipe: DiffusionPipeline | Model, base: str | Path) -> None:
    """Make sure, before there is an edit, that a single file can be edited as the model is.

    It must hold the value layers of the model, each once.

    Args:
        pipe: the model.
        base: the single file.

    Raises:
        ExportError: a LoRA is in effect, the file cannot be read, or it holds another model.
    """
    model = Model.of(pipe)
    refuse_loras(model)
    nothing = NeuronFile.of(model, Neurons())
    layers = {path: LayerChange() for path in model.value_layers if not text_rows_only(path)}
    layers_in_single_file(Path(base), Exportable(model, nothing, layers))


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


def layers_in_single_file(base: Path, edit: Exportable) -> dict[str, Location]:
    """Find the layers of an edit in a single file: tensor name -> where the layer's rows are.

    Raises:
        ExportError: the file cannot be read, or does not hold a layer's weights exactly once.
    """
    layers: dict[str, Location] = {}
    stored = read_header(base).tensors
    with safe_open(base, framework="pt") as tensors:
        for path in edit.changes:
            for name, weights in edit.weights(path).items():
                locations = [
                    Location(path, name, key, first_row, len(weights))
                    for key, first_row in _places(stored, tensors.get_tensor, weights)
                ]
                if len(locations) != 1:
                    raise ExportError(
                        f"{base}: it holds the {name} of {path} {len(locations)} times instead of "
                        "once. Load the model from a folder with the same weights, in the same "
                        "precision (--dtype)."
                    )
                layers[locations[0].key] = locations[0]
    return layers


def _places(
    stored: Mapping[str, StoredTensor], read: Callable[[str], Tensor], weights: Tensor
) -> Iterator[tuple[str, int]]:
    """Yield the names of tensors that hold these weights, and where in them they begin."""
    expected = weights.detach().cpu()
    features, *inputs = expected.shape
    for key, entry in stored.items():
        for projections in _PROJECTIONS_BEFORE:
            first_row = projections * features
            shape = (first_row + features, *inputs)
            if key.startswith(_AVERAGED) or entry.shape != shape:
                continue
            values = read(key)[first_row:].to(expected.dtype)
            if torch.equal(values, expected):
                yield key, first_row
