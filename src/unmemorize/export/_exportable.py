"""What must hold before an edit can be exported from a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from unmemorize._errors import ExportError
from unmemorize.export._carried import AnyEditFile, edit_of
from unmemorize.generation import LayerChange
from unmemorize.pipelines import Model, text_rows_only, weights_of


@dataclass(frozen=True)
class Exportable:
    """An edit that weights can do, with the model that it edits.

    Args:
        model: the model.
        file: the neuron file or edit file.
        changes: path of a linear layer -> what becomes of its weights.
    """

    model: Model
    file: AnyEditFile
    changes: Mapping[str, LayerChange]

    def weights(self, path: str) -> dict[str, Tensor]:
        """Return the unedited weight and bias (if any) of a layer."""
        return weights_of(self.model.denoiser.get_submodule(path))

    def changes_bias(self, path: str) -> bool:
        """Tell whether a layer has a bias that the edit changes."""
        return bool(self.changes[path].factors) and "bias" in self.weights(path)

    def changed(self, path: str, name: str, value: Tensor) -> Tensor:
        """Return a weight or bias of a layer as the edit leaves it, float64.

        Args:
            path: of the layer.
            name: "weight" or "bias".
            value: what the layer has there.
        """
        change = self.changes[path]
        return change.of_weight(value) if name == "weight" else change.of_bias(value)


def exportable(pipe: DiffusionPipeline | Model, file: AnyEditFile) -> Exportable:
    """Return what an edit does to weights, if it belongs to the model and weights can do it.

    Raises:
        ExportError: a LoRA is loaded, or neurons lie in a layer that projects text and image
            together, which weights cannot tell apart.
        NeuronError, EditError: the edit belongs to another model.
    """
    model = Model.of(pipe)
    file.check(model)
    networks = (part for part in model.pipe.components.values() if isinstance(part, nn.Module))
    if any(hasattr(module, "base_layer") for network in networks for module in network.modules()):
        raise ExportError(
            f"{model.name}: a LoRA is loaded. Unload it (pipe.unload_lora_weights), or make it "
            "part of the model: pipe.fuse_lora, pipe.unload_lora_weights, pipe.save_pretrained, "
            "and localize in what is loaded from there."
        )
    changes = edit_of(file).changes(model)
    for path in changes:
        if text_rows_only(path):
            raise ExportError(
                f"{path}: it projects text and image together, and no weights can switch its "
                "neurons off for the text alone. Use the neuron file with switched_off, or "
                'localize with --layers "transformer_blocks.*".'
            )
    return Exportable(model, file, changes)
