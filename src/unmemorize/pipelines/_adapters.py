"""Adapters of peft on the layers of a network: LoRA and its relatives."""

from __future__ import annotations

from typing import Any

from torch import nn


def is_adapted(module: nn.Module) -> bool:
    """Whether a module is a layer of peft, of any kind of adapter."""
    return hasattr(module, "base_layer") and hasattr(module, "active_adapters")


def adapters_in_effect(module: nn.Module) -> list[str]:
    """Name the adapters of a layer that have an effect when it is called next.

    Where some are merged, peft ignores those that are not, and takes disabled ones out of the
    weight. A layer without adapters has none.
    """
    layer: Any = module
    if not is_adapted(module) or layer.disable_adapters:
        return []
    names = layer.merged_adapters or layer.active_adapters
    scaling = getattr(layer, "scaling", {})
    return [
        name
        for name in names
        if any(name in getattr(layer, part, ()) for part in layer.adapter_layer_names)
        and scaling.get(name, 1.0)
    ]


def roles_of_parameters(module: nn.Module) -> dict[int, str | None]:
    """Tell what each adapter of a layer does: the identity of a parameter -> kind and strength.

    None marks parameters that do nothing. Adapters that are merged are part of the layer's own
    weight. Those that are not in effect have none. Disabled ones that are merged are taken out of
    the weight at the next call.
    """
    layer: Any = module
    merged = set(layer.merged_adapters)
    sign, names = "+", set(adapters_in_effect(module)) - merged
    if layer.disable_adapters:
        sign, names = "-", merged
    strengths = {name: getattr(layer, "scaling", {}).get(name, 1.0) for name in names}
    roles: dict[int, str | None] = {}
    for path, parameter in module.named_parameters(remove_duplicate=False):
        if not path.startswith("base_layer."):
            strength = next((strengths[name] for name in path.split(".") if name in names), 0)
            kind = type(module).__name__
            roles[id(parameter)] = f"{sign}{kind} {strength}" if strength else None
    return roles
