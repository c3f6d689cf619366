"""Neurons as a LoRA: at strength 1 they are off, at 0 on, between and beyond the scale is 1 - strength.

A value layer computes W x (+ b). For the neurons of a layer the LoRA adds B A x with A = -W[neurons] and B = one column for each, a 1 in
its row; a bias goes by the bias of B. Layers are padded with zeros to one rank, and alpha is the rank.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from unmemorize._errors import ExportError, NeuronError
from unmemorize._files import atomic_write, parse_json, safetensors_bytes
from unmemorize.export._checkpoint import CARD, alike, exportable
from unmemorize.export._rows import header
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model, name_of_denoiser, weights_of

LoraLayout = Literal["diffusers", "kohya"]
WEIGHTS = "pytorch_lora_weights.safetensors"
"""The name under which diffusers looks for them in a folder."""


def export_lora(
    pipe: DiffusionPipeline | Model,
    neurons: NeuronFile,
    folder: str | Path,
    *,
    layout: LoraLayout = "diffusers",
    card: str | None = None,
) -> Path:
    """Write a LoRA that ``pipe.load_lora_weights(folder)`` loads.

    Args:
        pipe: the model.
        neurons: what it switches off at strength 1, to the scale of the file.
        folder: where it goes; it must not hold a LoRA yet, nor a card where one is given.
        layout: "diffusers", or "kohya" for other programs (U-Nets without bias only).
        card: a README.md to go with it, see `model_card`.

    Returns:
        The file.

    Raises:
        ExportError: diffusers cannot load a LoRA into this kind of model, the layout does not fit it, or the file exists or cannot be
            written.
        NeuronError: the neurons belong to another model.
    """
    model, folder = exportable(pipe, neurons), Path(folder)
    if not hasattr(model.pipe, "load_lora_weights"):
        raise ExportError(
            f"{type(model.pipe).__name__}: diffusers loads no LoRA into it. Export a checkpoint instead."
        )
    file = folder / WEIGHTS
    for path in (file, *([folder / CARD] if card is not None else [])):
        if path.exists():
            raise ExportError(f"{path}: exists already. Choose another folder, or delete it first.")
    tensors, metadata = _tensors(model, neurons, layout)
    atomic_write(file, safetensors_bytes(tensors, metadata), ExportError)
    if card is not None:
        atomic_write(folder / CARD, card, ExportError)
    return file


def verify_lora(path: str | Path, pipe: DiffusionPipeline | Model) -> NeuronFile:
    """See that a LoRA switches off the neurons that it names, in this model, and does nothing else; returns these.

    Raises:
        ExportError: it carries no neurons, cannot be read, or holds something else.
        NeuronError: the neurons are malformed, or another model's.
    """
    neurons = read_lora(path)
    model = exportable(pipe, neurons)
    there = load_file(path)
    for layout in get_args(LoraLayout):
        with suppress(ExportError):
            expected, _ = _tensors(model, neurons, layout)
            if expected.keys() == there.keys() and all(
                alike(there[key], value) for key, value in expected.items()
            ):
                return neurons
    raise ExportError(
        f"{path}: its tensors are not those that switch its {len(neurons.neurons)} neurons off. Export it again."
    )


def _tensors(
    model: Model, neurons: NeuronFile, layout: LoraLayout
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a LoRA."""
    name, kind = name_of_denoiser(model.pipe), type(model.pipe).__name__
    rank = max((len(indices) for indices in neurons.neurons.layers.values()), default=0)
    if not rank:
        raise ExportError(f"{neurons.model}: no neurons, so there is nothing to export.")
    tensors: dict[str, Tensor] = {}
    has_bias = any(
        "bias" in weights_of(model.value_layers[path]) for path in neurons.neurons.layers
    )
    if layout == "kohya" and (name != "unet" or has_bias):
        raise ExportError(
            f"{kind}: the kohya layout has no place for its value layers. Use the layout diffusers."
        )
    for path, indices in neurons.neurons.layers.items():
        weights = {
            key: value.detach().cpu() for key, value in weights_of(model.value_layers[path]).items()
        }
        down, up, bias = _factors(weights, list(indices), rank, neurons.scale)
        if layout == "kohya":
            key = f"lora_unet_{path.replace('.', '_')}"
            tensors |= {
                f"{key}.lora_down.weight": down,
                f"{key}.lora_up.weight": up,
                f"{key}.alpha": torch.tensor(float(rank)),
            }
        else:
            tensors |= {f"{name}.{path}.lora_A.weight": down, f"{name}.{path}.lora_B.weight": up}
            if has_bias:
                tensors[f"{name}.{path}.lora_B.bias"] = bias
    config = {
        "r": rank,
        "lora_alpha": rank,
        "lora_bias": has_bias,
        "target_modules": sorted(neurons.neurons.layers),
    }
    metadata = {"unmemorize": json.dumps(neurons.to_json(), sort_keys=True)}
    if layout == "diffusers":
        metadata["lora_adapter_metadata"] = json.dumps(
            {f"{name}.{key}": value for key, value in config.items()}, sort_keys=True
        )
    return tensors, metadata


def read_lora(path: str | Path) -> NeuronFile:
    """The neuron file that a LoRA of this package carries.

    Raises:
        ExportError: it carries none, or cannot be read.
        NeuronError: it is malformed.
    """
    entries, _ = header(Path(path))
    carried = entries.get("__metadata__", {}).get("unmemorize")
    if carried is None:
        raise ExportError(
            f"{path}: it carries no neurons. Is it a LoRA made by unmemorize export lora?"
        )
    return NeuronFile.from_json(
        parse_json(carried, NeuronError, f"{path}: its neurons are damaged"), str(path)
    )


def _factors(
    weights: dict[str, Any], indices: list[int], rank: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    weight = weights["weight"]
    width, features = weight.shape
    down, up, bias = (
        weight.new_zeros(rank, features),
        weight.new_zeros(width, rank),
        weight.new_zeros(width),
    )
    down[: len(indices)] = -(1 - scale) * weight[indices]
    up[indices, range(len(indices))] = 1
    if "bias" in weights:
        bias[indices] = -(1 - scale) * weights["bias"][indices]
    return down, up, bias
