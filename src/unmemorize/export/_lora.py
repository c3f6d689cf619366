"""Neurons as a LoRA: at strength 1 they have the scale of their file, at strength 0 they are on.

A value layer computes W x (+ b). For the neurons of a layer and their scale s, the LoRA adds
B A x with A = -(1 - s) W[neurons] and B = one column per neuron with a 1 in the neuron's row. At
strength t, outputs are therefore multiplied by 1 - t (1 - s). A bias goes by the bias of B, or by
what is added to the bias of the layer. Layers are padded with zeros to one rank, and alpha is the
rank, so programs multiply B A by exactly t. Where a program keeps queries, keys and values in one
layer, the rows of queries and keys are zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._errors import ExportError
from unmemorize._files import atomic_write, safetensors_bytes
from unmemorize.export._carried import as_metadata
from unmemorize.export._exportable import exportable
from unmemorize.export._lora_layouts import LoraLayout, fitting_layouts, has_bias
from unmemorize.export._lora_metadata import LoraContent
from unmemorize.export._model_folder import CARD
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model, weights_of


@dataclass(frozen=True)
class _Factors:
    """A layer's share of a LoRA: A (rank, inputs), B (features, rank) and the bias of B."""

    down: Tensor
    up: Tensor
    bias: Tensor


def export_lora(
    pipe: DiffusionPipeline | Model,
    neurons: NeuronFile,
    folder: str | Path,
    *,
    layout: str | None = None,
    card: str | None = None,
) -> tuple[Path, ...]:
    """Write a LoRA in every layout that fits the model: for diffusers, and for other programs.

    ``pipe.load_lora_weights(folder)`` loads the first. See `LAYOUTS` for who reads which.

    Args:
        pipe: the model.
        neurons: what it multiplies by the file's scale at strength 1.
        folder: where it goes. It must not hold a LoRA of these names, nor a card if one is given.
        layout: "diffusers" or "kohya" for one file alone. None writes all that fit the model.
        card: a README.md to go with it, see `model_card`.

    Returns:
        The files, that for diffusers first. It has the name that diffusers looks for, and the
        others tell model and layout.

    Raises:
        ExportError: diffusers cannot load a LoRA into this kind of model, the layout is unknown
            or does not fit, or a file exists or cannot be written.
        NeuronError: the neurons belong to another model.

    Examples:
        >>> import tempfile
        >>> from unmemorize import Model, NeuronFile, Neurons
        >>> model = Model.load("testbed", device="cpu")
        >>> neurons = NeuronFile.of(model, Neurons({next(iter(model.value_layers)): [4]}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [file.name for file in export_lora(model, neurons, folder)]
        ['pytorch_lora_weights.safetensors', 'testbed-unmemorized-kohya.safetensors']
    """
    model = exportable(pipe, neurons)
    folder = Path(folder)
    layouts = fitting_layouts(model, neurons, layout)
    if not hasattr(model.pipe, "load_lora_weights"):
        raise ExportError(
            f"{type(model.pipe).__name__}: diffusers loads no LoRA into it. "
            "Export a checkpoint instead."
        )
    files = {folder / chosen.file_name(neurons.model): chosen for chosen in layouts}
    for path in (*files, *([folder / CARD] if card is not None else [])):
        if path.exists():
            raise ExportError(f"{path}: exists already. Choose another folder, or delete it first.")
    contents = {
        file: _lora_bytes(model, neurons, chosen, file.stem) for file, chosen in files.items()
    }
    for file, content in contents.items():
        atomic_write(file, content, ExportError)
    if card is not None:
        atomic_write(folder / CARD, card, ExportError)
    return tuple(files)


def _lora_bytes(model: Model, neurons: NeuronFile, layout: LoraLayout, stem: str) -> bytes:
    layers = neurons.neurons.layers
    if not layers:
        raise ExportError(f"{neurons.model}: no neurons, so there is nothing to export.")
    rank = max(map(len, layers.values()))
    bias = any(has_bias(model, path) for path in layers)
    tensors: dict[str, Tensor] = {}
    for path, indices in layers.items():
        keys = layout.keys(model, path)
        assert keys is not None  # as the layout fits
        factors = _factors(model, path, indices, rank, neurons.scale)
        tensors[keys.down] = factors.down
        tensors[keys.up] = _as_last(factors.up, keys.projections)
        if bias and keys.bias is not None:
            tensors[keys.bias] = _as_last(factors.bias, keys.projections)
        if keys.alpha is not None:
            tensors[keys.alpha] = torch.tensor(float(rank))
    content = LoraContent(model, tuple(layers), rank, bias, stem)
    return safetensors_bytes(tensors, {**as_metadata(neurons), **layout.metadata(content)})


def _as_last(rows: Tensor, projections: int) -> Tensor:
    """Put rows of zeros for further projections of the same size in front."""
    return torch.cat([*[torch.zeros_like(rows)] * (projections - 1), rows])


def _factors(model: Model, path: str, indices: Sequence[int], rank: int, scale: float) -> _Factors:
    weights = {
        name: value.detach().cpu() for name, value in weights_of(model.value_layers[path]).items()
    }
    weight = weights["weight"]
    features, inputs = weight.shape
    rows = list(indices)
    down = weight.new_zeros(rank, inputs)
    down[: len(rows)] = -(1 - scale) * weight[rows]
    up = weight.new_zeros(features, rank)
    up[rows, range(len(rows))] = 1
    bias = weight.new_zeros(features)
    if "bias" in weights:
        bias[rows] = -(1 - scale) * weights["bias"][rows]
    return _Factors(down, up, bias)
