"""What must hold before neurons can be exported from a model."""

from __future__ import annotations

from diffusers import DiffusionPipeline
from torch import nn

from unmemorize._errors import ExportError
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model, text_rows_only


def exportable(pipe: DiffusionPipeline | Model, neurons: NeuronFile) -> Model:
    """Return the model if the neurons are its own and weights can switch them off.

    Raises:
        ExportError: a LoRA is loaded, or neurons lie in a layer that projects text and image
            together, which weights cannot tell apart.
        NeuronError: the neurons belong to another model.
    """
    model = Model.of(pipe)
    neurons.check(model)
    networks = (part for part in model.pipe.components.values() if isinstance(part, nn.Module))
    if any(hasattr(module, "base_layer") for network in networks for module in network.modules()):
        raise ExportError(
            f"{model.name}: a LoRA is loaded. Unload it (pipe.unload_lora_weights), or make it "
            "part of the model: pipe.fuse_lora, pipe.unload_lora_weights, pipe.save_pretrained, "
            "and localize in what is loaded from there."
        )
    for path in neurons.neurons.layers:
        if text_rows_only(path):
            raise ExportError(
                f"{path}: it projects text and image together, and no weights can switch its "
                "neurons off for the text alone. Use the neuron file with switched_off, or "
                'localize with --layers "transformer_blocks.*".'
            )
    return model
