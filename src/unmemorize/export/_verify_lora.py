"""Check what a LoRA does to the weights when it is merged into them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from unmemorize._errors import ExportError
from unmemorize._files import from_json, parse_json
from unmemorize.export._carried import LORAS, AnyEditFile, carried_loras, same_loras
from unmemorize.export._changes import Difference
from unmemorize.export._expected import ExpectedLayer, expected_layers, weights_with_loras
from unmemorize.export._lora_layouts import LAYOUTS, LayerKeys
from unmemorize.export._lora_metadata import ADAPTER_METADATA, AdapterSettings
from unmemorize.export._rows import Header, read_header
from unmemorize.pipelines import Model, layer_at, split_path

_MARK = ".lora_"
"""Every layout has it in the names of its matrices."""


def is_lora(header: Header) -> bool:
    """Tell a LoRA from a checkpoint by the names of its tensors."""
    return any(_MARK in key for key in header.tensors)


def lora_changes(file: Path, model: Model, edit: AnyEditFile) -> Iterator[Difference]:
    """Compare the merged weights W + (alpha / rank) B A with those the edit asks for.

    The result is linear in the strength, so what holds at strength 1 holds at every other one.

    Args:
        file: the LoRA, in any layout of `LAYOUTS`.
        model: the model it belongs to, with the LoRAs beside which it belongs.
        edit: the neuron file or edit file that it carries.

    Raises:
        ExportError: the file cannot be read, or its settings are damaged.
    """
    header = read_header(file)
    tensors = load_file(file)
    layers = expected_layers(model, edit)
    named = _keys_of_layers(tensors, model, layers)
    settings = _adapter_settings(file, header)
    known = {key for keys in named.values() for key in keys.tensors}
    if settings is not None and not _applies_to(settings, tensors, named, model):
        yield Difference(file.name, ADAPTER_METADATA, (), expected=False)
    if not same_loras(carried_loras(header), model.loras):
        yield Difference(file.name, LORAS, (), expected=False)
    for key in sorted(tensors.keys() - known):
        yield Difference(file.name, key, (), expected=False)
    for path, layer in layers.items():
        if path not in named:
            yield Difference(file.name, path, (), expected=False)
            continue
        weights = weights_with_loras(layer_at(model, path))
        component, _ = split_path(model.pipe, path)
        own = settings.get(component) if settings is not None else None
        added = _added(tensors, named[path], own, weights)
        if added is None:
            yield Difference(file.name, path, (), expected=False)
            continue
        changed = torch.stack([value.reshape(len(value), -1).any(1) for value in added.values()])
        rows = tuple(torch.nonzero(changed.any(0)).flatten().tolist())
        right = all(_adds_what_it_should(layer, name, weights[name], added[name]) for name in added)
        yield Difference(file.name, path, rows, right)


def _keys_of_layers(
    tensors: Mapping[str, Tensor], model: Model, layers: Iterable[str]
) -> dict[str, LayerKeys]:
    """Find the layout in which a file names most layers, and return the layers it names."""
    candidates = [
        {
            path: keys
            for path in layers
            if (keys := layout.keys(model, path)) is not None
            and {keys.down, keys.up} <= tensors.keys()
        }
        for layout in LAYOUTS
    ]
    return max(candidates, key=len)


def _adapter_settings(file: Path, header: Header) -> dict[str, AdapterSettings] | None:
    """Read the settings of peft by component from the metadata; None where there are none.

    Raises:
        ExportError: they are damaged, or hold a setting that changes what the LoRA does.
    """
    text = header.metadata.get(ADAPTER_METADATA)
    if text is None:
        return None
    problem = f"{file}: the settings of its adapter are damaged"
    content = parse_json(text, ExportError, problem)
    by_component: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        component, _, name = key.rpartition(".")
        if name not in AdapterSettings.__dataclass_fields__:
            raise ExportError(
                f"{file}: its adapter has the setting {json.dumps(name)}, which this check "
                "does not know. Export it again."
            )
        by_component.setdefault(component, {})[name] = value
    return {
        component: from_json(AdapterSettings, settings, ExportError, problem, "Export it again.")
        for component, settings in by_component.items()
    }


def _applies_to(
    settings: Mapping[str, AdapterSettings],
    tensors: Mapping[str, Tensor],
    named: Mapping[str, LayerKeys],
    model: Model,
) -> bool:
    """Whether peft adapts just these layers, and reads their biases if there are any."""
    has_bias = any(keys.bias in tensors for keys in named.values())
    adapted = {
        (component, path) for component, each in settings.items() for path in each.target_modules
    }
    reads_biases = all(each.lora_bias == has_bias for each in settings.values())
    return adapted == {split_path(model.pipe, path) for path in named} and reads_biases


def _added(
    tensors: Mapping[str, Tensor],
    keys: LayerKeys,
    settings: AdapterSettings | None,
    weights: Mapping[str, Tensor],
) -> dict[str, Tensor] | None:
    """Compute what a program adds to weight and bias at strength 1, in float64.

    None where tensors have other shapes than the layer, a bias is there without a layer's, or
    projections before the values would change.
    """
    down, up = tensors[keys.down], tensors[keys.up]
    features, *kernel = weights["weight"].shape  # of a convolution: inputs, height, width
    rows, ones = keys.projections * features, [1] * (len(kernel) - 1)
    rank = len(down) if down.ndim > 1 else 0
    if not rank or down.shape != (rank, *kernel) or up.shape != (rows, rank, *ones):
        return None
    factor = 1.0  # peft's and kohya's where nothing names alpha
    if keys.alpha is not None and keys.alpha in tensors:
        if tensors[keys.alpha].numel() != 1:
            return None
        factor = float(tensors[keys.alpha]) / rank
    elif keys.alpha is None and settings is not None:
        if settings.r != rank:
            return None
        factor = settings.lora_alpha / settings.r
    product = factor * torch.tensordot(up.double().flatten(1), down.double(), dims=1)
    bias = tensors.get(keys.bias or "", torch.zeros(rows, dtype=torch.float64)).double()
    if bias.shape != (rows,):
        return None
    if keys.alpha is None:
        bias = factor * bias
    before = rows - features
    if bool(product[:before].any()) or bool(bias[:before].any()):
        return None
    added = {"weight": product[before:]}
    if "bias" in weights:
        added["bias"] = bias[before:]
    elif bool(bias.any()):
        return None
    return added


def _adds_what_it_should(layer: ExpectedLayer, name: str, weight: Tensor, added: Tensor) -> bool:
    """Whether the weights plus what is added to them are the edited weights.

    What is added is compared, not the sum: the sum may vanish, and rounding is relative to what
    is rounded. It may be that of float16, as fingerprints do not tell a model from its float16
    variant.
    """
    change = layer.value(name, weight) - weight.detach().cpu().double()
    return layer.is_right(added, change, change, weight.dtype, torch.float16)
