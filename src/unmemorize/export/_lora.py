"""Neurons as a LoRA: at strength 1 they have the scale of their file, at strength 0 they are on.

A value layer computes W x (+ b). For the neurons of a layer and their scale s, the LoRA adds
B A x with A = -(1 - s) W[neurons] and B = one column per neuron with a 1 in the neuron's row. At
strength t, outputs are therefore multiplied by 1 - t (1 - s). A bias goes by the bias of B. Layers
are padded with zeros to one rank, and alpha is the rank, so programs multiply B A by exactly t.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._errors import ExportError
from unmemorize._files import atomic_write, safetensors_bytes, to_json
from unmemorize.export._carried import as_metadata
from unmemorize.export._exportable import exportable
from unmemorize.export._lora_layouts import LoraLayout, has_bias, layout_named
from unmemorize.export._model_folder import CARD
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model, name_of_denoiser, weights_of

ADAPTER_METADATA = "lora_adapter_metadata"
"""The name under which diffusers looks for the settings of peft."""


@dataclass(frozen=True)
class AdapterSettings:
    """The settings of peft that a LoRA carries in its metadata.

    Args:
        r: the rank.
        lora_alpha: peft multiplies B A by lora_alpha / r.
        lora_bias: whether B has a bias.
        target_modules: the paths of the layers.
    """

    r: int
    lora_alpha: float
    lora_bias: bool
    target_modules: list[str]


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
    layout: str = "diffusers",
    card: str | None = None,
) -> Path:
    """Write a LoRA that ``pipe.load_lora_weights(folder)`` loads.

    Args:
        pipe: the model.
        neurons: what it multiplies by the file's scale at strength 1.
        folder: where it goes. It must not hold a LoRA of this name, nor a card if one is given.
        layout: how its tensors are named, one of `LAYOUTS`.
        card: a README.md to go with it, see `model_card`.

    Returns:
        The file. Its name is the one diffusers looks for, or tells model and layout to others.

    Raises:
        ExportError: diffusers cannot load a LoRA into this kind of model, the layout is unknown
            or does not fit, or the file exists or cannot be written.
        NeuronError: the neurons belong to another model.

    Examples:
        >>> import tempfile
        >>> from unmemorize import Model, NeuronFile, Neurons
        >>> model = Model.load("testbed", device="cpu")
        >>> neurons = NeuronFile.of(model, Neurons({next(iter(model.value_layers)): [4]}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_lora(model, neurons, folder).name
        'pytorch_lora_weights.safetensors'
    """
    model = exportable(pipe, neurons)
    folder = Path(folder)
    chosen = layout_named(layout)
    if not hasattr(model.pipe, "load_lora_weights"):
        raise ExportError(
            f"{type(model.pipe).__name__}: diffusers loads no LoRA into it. "
            "Export a checkpoint instead."
        )
    file = folder / chosen.file_name(neurons.model)
    for path in (file, *([folder / CARD] if card is not None else [])):
        if path.exists():
            raise ExportError(f"{path}: exists already. Choose another folder, or delete it first.")
    content = _lora_bytes(model, neurons, chosen)
    atomic_write(file, content, ExportError)
    if card is not None:
        atomic_write(folder / CARD, card, ExportError)
    return file


def _lora_bytes(model: Model, neurons: NeuronFile, layout: LoraLayout) -> bytes:
    layers = neurons.neurons.layers
    if not layers:
        raise ExportError(f"{neurons.model}: no neurons, so there is nothing to export.")
    layout.refuse_misfit(model, neurons)
    rank = max(map(len, layers.values()))
    denoiser = name_of_denoiser(model.pipe)
    bias = has_bias(model, neurons)
    tensors: dict[str, Tensor] = {}
    metadata = as_metadata(neurons)
    for path, indices in layers.items():
        keys = layout.keys(denoiser, path)
        factors = _factors(model, path, indices, rank, neurons.scale)
        tensors[keys.down] = factors.down
        tensors[keys.up] = factors.up
        if bias and keys.bias is not None:
            tensors[keys.bias] = factors.bias
        if keys.alpha is not None:
            tensors[keys.alpha] = torch.tensor(float(rank))
        else:
            settings = AdapterSettings(rank, rank, bias, sorted(layers))
            metadata[ADAPTER_METADATA] = _adapter_metadata(denoiser, settings)
    return safetensors_bytes(tensors, metadata)


def _adapter_metadata(denoiser: str, settings: AdapterSettings) -> str:
    prefixed = {f"{denoiser}.{name}": value for name, value in to_json(settings).items()}
    return json.dumps(prefixed, sort_keys=True)


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
