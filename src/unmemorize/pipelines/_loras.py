"""LoRAs that are loaded into a pipeline: which are in effect, and what they make of weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from unmemorize._errors import ModelError
from unmemorize.pipelines._adapters import adapters_in_effect, is_adapted
from unmemorize.pipelines._weights import Weight, networks_of, weights_of

_PLAIN = ("Linear", "Conv2d")
"""The layers of peft whose LoRAs add B A to a weight."""


@dataclass(frozen=True)
class Lora:
    """A LoRA in effect, or an adapter of another kind.

    Args:
        name: the adapter's name, which `Model.load` takes from its file.
        strengths: by what it is multiplied, ascending. There are several where blocks or networks
            have strengths of their own.
        sha256: of its file; None where `Model.load` did not load it.

    Examples:
        >>> str(Lora("style", (0.8,)))
        'style at 0.8'
    """

    name: str
    strengths: tuple[float, ...]
    sha256: str | None = None

    def __str__(self) -> str:
        return f"{self.name} at {' and '.join(f'{strength:g}' for strength in self.strengths)}"


def loras_in(pipe: DiffusionPipeline) -> tuple[Lora, ...]:
    """List the adapters in effect, in the order of their first layers, without their files."""
    strengths: dict[str, set[float]] = defaultdict(set)
    for network in networks_of(pipe).values():
        for layer in adapted_layers(network).values():
            for name in adapters_in_effect(layer):
                strengths[name].add(_strength(layer, name))
    return tuple(Lora(name, tuple(sorted(values))) for name, values in strengths.items())


def adapters_in(pipe: DiffusionPipeline) -> tuple[tuple[str, str, str, float], ...]:
    """List where adapters are in effect: component, path of the layer, adapter and scaling."""
    return tuple(
        (component, path, name, float(getattr(layer, "scaling", {}).get(name, 1.0)))
        for component, network in networks_of(pipe).items()
        for path, layer in adapted_layers(network).items()
        for name in adapters_in_effect(layer)
    )


def adapted_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a network that hold adapters, by path."""
    return {path: module for path, module in network.named_modules() if is_adapted(module)}


def adds_to_weights(layer: nn.Module) -> bool:
    """Tell whether all adapters of a layer are plain LoRAs, which add B A to its weight."""
    adapted: Any = layer
    return (
        type(layer).__module__ == "peft.tuners.lora.layer"
        and type(layer).__name__ in _PLAIN
        and not adapted.lora_variant
        and not getattr(adapted, "fan_in_fan_out", False)
        and getattr(adapted.base_layer, "groups", 1) == 1
        and (adapted.base_layer.bias is not None or not any(adapted.lora_bias.values()))
    )


def effective_weights(layer: nn.Module) -> dict[str, Tensor]:
    """Return weight and bias (if any) that a layer computes with, in the types of its own.

    Raises:
        ModelError: a value cannot be read, or the layer has an adapter that is no plain LoRA.
    """
    if not is_adapted(layer):
        return weights_of(layer)
    if not adds_to_weights(layer):
        raise ModelError(
            f"{type(layer).__name__} of {type(layer).__module__}: what this adapter makes of its "
            "layer's weight is not known. Unload it, or fuse it and save the model."
        )
    added = added_by_loras(layer, merged=True)
    return {
        name: (value.to("cpu", torch.float64) + added[name]).to(value)
        for name, value in weights_of(layer).items()
        if name in added
    }


def added_by_loras(layer: nn.Module, *, merged: bool = False) -> dict[str, Tensor]:
    """Return what plain LoRAs in effect add to weight and bias (if any), float64, on the CPU.

    Args:
        layer: a layer with adapters.
        merged: whether to count from the weight that it holds, which has merged ones in it, and
            not from the weight of the base.
    """
    adapted: Any = layer
    values = weights_of(layer)
    held = adapted.merged_adapters if merged else ()
    factors = {name: float(adapted.scaling[name]) for name in adapters_in_effect(layer)}
    for name in held:
        factors[name] = factors.get(name, 0.0) - float(adapted.scaling[name])
    added: dict[str, Tensor] = {
        name: torch.zeros(values[name].shape, dtype=torch.float64)
        for name in ("weight", "bias")
        if name in values
    }
    for name, factor in factors.items():
        if factor:
            down, up = (
                values[f"lora_{side}.{name}.weight"].to("cpu", torch.float64).flatten(1)
                for side in "AB"
            )
            added["weight"] += factor * (up @ down).view_as(added["weight"])
            if f"lora_B.{name}.bias" in values:
                bias = values[f"lora_B.{name}.bias"].to("cpu", torch.float64)
                added["bias"] += factor * bias
    return added


def saved_weights(network: nn.Module) -> Iterator[tuple[str, Weight]]:
    """Yield what a network saves without its adapters, under the names that it then has."""
    adapted = adapted_layers(network)
    for key, value in network.state_dict().items():
        module, _, name = key.rpartition(".")
        path = next((path for path in adapted if key.startswith(f"{path}.")), None)
        if path is None or module == f"{path}.base_layer":
            weight = Weight(network.get_submodule(module), name, value)
            yield f"{module if path is None else path}.{name}".lstrip("."), weight


def _strength(layer: Any, name: str) -> float:
    """Return the strength of an adapter, which its scaling multiplies by alpha / rank."""
    scaling = float(getattr(layer, "scaling", {}).get(name, 1.0))
    alpha = {**getattr(layer, "alpha", {}), **getattr(layer, "lora_alpha", {})}.get(name)
    if not alpha:
        return scaling
    rank = layer.r[name]
    by_root = getattr(layer, "use_rslora", {}).get(name, False)
    return float(f"{scaling / (alpha / (math.sqrt(rank) if by_root else rank)):.6g}")
