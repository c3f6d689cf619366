"""What must hold before an edit can be exported from a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from unmemorize._errors import ExportError
from unmemorize._files import type_in_words
from unmemorize.export._carried import AnyEditFile, edit_of
from unmemorize.generation import Edit, EditFile, LayerChange
from unmemorize.neurons import HasNeurons, NeuronFile, Neurons
from unmemorize.pipelines import (
    Model,
    adds_to_weights,
    effective_weights,
    is_quantized,
    layer_at,
    networks_of,
    text_rows_only,
)


@dataclass(frozen=True)
class Exportable:
    """An edit that weights can do, with the model that it edits.

    Args:
        model: the model.
        file: the neuron file or edit file.
        changes: path of a layer -> what becomes of its weights.
    """

    model: Model
    file: AnyEditFile
    changes: Mapping[str, LayerChange]

    def weights(self, path: str) -> dict[str, Tensor]:
        """Return weight and bias (if any) of a layer before the edit, with LoRAs in effect."""
        return effective_weights(layer_at(self.model, path))

    def changes_bias(self, path: str) -> bool:
        """Tell whether a layer has a bias that the edit changes."""
        return self.changes[path].changes_bias and "bias" in self.weights(path)

    def changed(self, path: str, name: str, value: Tensor) -> Tensor:
        """Return a weight or bias of a layer as the edit leaves it, float64.

        Args:
            path: of the layer.
            name: "weight" or "bias".
            value: what the layer has there.
        """
        change = self.changes[path]
        return change.of_weight(value) if name == "weight" else change.of_bias(value)


AnyEdit = AnyEditFile | Neurons | HasNeurons | Edit
"""What functions that export take: a file, or neurons or an edit of the model itself."""


def as_edit_file(given: AnyEdit | None, model: Model) -> AnyEditFile:
    """Return a neuron file or edit file itself, or make one of neurons or an edit of the model.

    Raises:
        ExportError: it is something else, such as nothing or an intervention.
        NeuronError: the neurons do not exist in the model.
    """
    if isinstance(given, AnyEditFile):
        return given
    if given is None:
        raise ExportError(
            "None: there is no edit to export. A mitigation has none (MitigationResult.file) where "
            "no suspect was confirmed, or no edit was found; its outcomes tell which."
        )
    if isinstance(getattr(given, "neurons", given), Neurons):
        return NeuronFile.of(model, cast(HasNeurons, given))
    if hasattr(given, "changes"):
        return EditFile.of(model, cast(Edit, given))
    if hasattr(given, "plan"):
        raise ExportError(
            f"{given!r:.60}: it acts on images while they are drawn, and no weights do that. Apply "
            "it with generate, or choose a method that makes an edit."
        )
    raise ExportError(
        f"{given!r:.60}: {type_in_words(given)}. Give a NeuronFile, an EditFile such as the file "
        "of a MitigationResult, an edit, or neurons."
    )


def exportable(pipe: DiffusionPipeline | Model, edit: AnyEdit | None) -> Exportable:
    """Return what an edit does to weights, if it belongs to the model and weights can do it.

    Raises:
        ExportError: there is no edit, an adapter that is no plain LoRA is loaded, the model is
            quantized, or neurons lie in a layer that projects text and image together, which
            weights cannot tell apart.
        NeuronError, EditError: the edit belongs to another model.
    """
    model = Model.of(pipe)
    file = as_edit_file(edit, model)
    file.check(model)
    _refuse_other_adapters(model)
    _refuse_quantized(model)
    changes = edit_of(file).changes(model)
    for path, change in changes.items():
        if change.factors and text_rows_only(path):
            raise ExportError(
                f"{path}: it projects text and image together, and no weights can switch its "
                "neurons off for the text alone. Use the neuron file with switched_off, or "
                'localize with --layers "transformer_blocks.*".'
            )
    return Exportable(model, file, changes)


def _refuse_other_adapters(model: Model) -> None:
    for network in networks_of(model.pipe).values():
        for module in network.modules():
            if hasattr(module, "base_layer") and not adds_to_weights(module):
                variants = [type(each).__name__ for each in _variants(module)]
                kind = " ".join([f"{type(module).__module__}.{type(module).__name__}", *variants])
                raise ExportError(
                    f"{model.name}: an adapter is loaded ({kind}) that is no plain LoRA, and what "
                    "it adds to weights is not known. Unload it (pipe.unload_lora_weights), or "
                    "make it part of the model: pipe.fuse_lora, pipe.unload_lora_weights, "
                    "pipe.save_pretrained, and localize in what is loaded from there."
                )


def _variants(module: nn.Module) -> list[object]:
    return list(getattr(module, "lora_variant", {}).values())


def _refuse_quantized(model: Model) -> None:
    for component, network in networks_of(model.pipe).items():
        for path, parameter in network.named_parameters():
            if is_quantized(parameter):
                raise ExportError(
                    f"{model.name}: its {component} is quantized ({path}), and programs merge "
                    "edits into real numbers only. Load the model without quantization and "
                    "localize there."
                )
