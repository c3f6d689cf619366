"""Adapters of peft on the layers of a network: LoRA and its relatives."""

from __future__ import annotations

from typing import Any

from torch import nn


def is_adapted(module: nn.Module) -> bool:
    """Whether a module is a layer of peft, of any kind of adapter."""
    return hasattr(module, "base_layer") and hasattr(module, "active_adapters")


def roles_of_parameters(module: nn.Module) -> dict[int, str | None]:
    """Tell what each adapter of a layer does: the identity of a parameter -> kind and strength.

    None marks parameters that do nothing. Adapters that are merged are part of the layer's own
    weight. Those that are disabled, not active, or of strength 0 have no effect. Disabled ones that
    are merged are taken out of the weight at the next call.
    """
    layer: Any = module
    merged = set(layer.merged_adapters)
    sign, names = "+", set(layer.active_adapters) - merged
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
