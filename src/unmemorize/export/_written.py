"""What a checkpoint holds in place of the base's weights: LoRAs in effect, then the edit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unmemorize._errors import ExportError
from unmemorize.export._exportable import Exportable
from unmemorize.generation import LayerChange
from unmemorize.pipelines import (
    adapted_layers,
    adapters_in_effect,
    added_by_loras,
    by_component,
    networks_of,
    weights_of,
)


@dataclass(frozen=True)
class WrittenLayer:
    """A layer whose weights are not those of the base.

    Args:
        base: weight and bias (if any) of the base, as loaded.
        added: what LoRAs add to them, float64; empty without one.
        change: what the edit makes of the sum.
    """

    base: dict[str, Tensor]
    added: dict[str, Tensor]
    change: LayerChange


@dataclass(frozen=True)
class WrittenWeight:
    """The weight or the bias of such a layer.

    Args:
        layer: the layer.
        name: "weight" or "bias".
    """

    layer: WrittenLayer
    name: str

    def value(self, stored: Tensor) -> Tensor:
        """Return what a file of the base gets instead of what it has, float64."""
        value = stored.to(torch.float64)
        if self.name in self.layer.added:
            added = self.layer.added[self.name]
            value = torch.where(added == 0, value, value + added)  # keeps the sign of zeros
        change = self.layer.change
        return change.of_weight(value) if self.name == "weight" else change.of_bias(value)


def layers_to_write(edit: Exportable) -> dict[str, dict[str, WrittenLayer]]:
    """Return the layers that LoRAs or the edit change: component -> path -> layer.

    Raises:
        ExportError: a LoRA is fused into the weights.
    """
    changed = by_component(edit.model.pipe, edit.changes)
    written = {}
    for component, network in networks_of(edit.model.pipe).items():
        adapted = adapted_layers(network)
        if any(getattr(layer, "merged_adapters", ()) for layer in adapted.values()):
            raise ExportError(
                f"{edit.model.name}: a LoRA is fused into its {component}, so the base's weights "
                "are not in memory, and rounding keeps them from coming back. Load the model and "
                'the LoRA again and fuse nothing: Model.load(MODEL, loras={"FILE": STRENGTH}).'
            )
        changes = changed.get(component, {})
        paths = [path for path, layer in adapted.items() if adapters_in_effect(layer)]
        written[component] = {
            path: _layer(network.get_submodule(path), changes.get(path, LayerChange()))
            for path in dict.fromkeys([*paths, *changes])
        }
    return {component: layers for component, layers in written.items() if layers}


def _layer(layer: nn.Module, change: LayerChange) -> WrittenLayer:
    held = weights_of(layer)
    base: dict[str, Tensor] = {name: held[name] for name in ("weight", "bias") if name in held}
    return WrittenLayer(base, added_by_loras(layer) if adapters_in_effect(layer) else {}, change)
