"""Layers by path, those of the denoiser and of text encoders.

The path of a layer of the denoiser is that in the denoiser, such as "mid_block.attn2.to_v". The
path of a layer of a text encoder begins with the name of that component, such as
"text_encoder.text_model.encoder.layers.0.mlp.fc1".
"""

from __future__ import annotations

from diffusers import DiffusionPipeline
from torch import nn

from unmemorize.pipelines._denoiser import denoiser_of, name_of_denoiser

_TEXT = "text_encoder"


def text_encoders_of(pipe: DiffusionPipeline) -> dict[str, nn.Module]:
    """Return the text encoders of a pipeline by the names of its components."""
    return {
        name: getattr(part, "_orig_mod", part)  # torch.compile wraps it
        for name, part in sorted(pipe.components.items())
        if name.startswith(_TEXT) and isinstance(part, nn.Module)
    }


def split_path(pipe: DiffusionPipeline, path: str) -> tuple[str, str]:
    """Return the component that a layer belongs to, and its path there.

    Examples:
        >>> from unmemorize import Model
        >>> split_path(Model.load("testbed").pipe, "text_encoder.text_model.encoder.layers.0")
        ('text_encoder', 'text_model.encoder.layers.0')
    """
    component, _, inner = path.partition(".")
    if component in text_encoders_of(pipe):
        return component, inner
    return name_of_denoiser(pipe), path


def layer_at(pipe: DiffusionPipeline, path: str) -> nn.Module:
    """Return the layer at a path.

    Raises:
        AttributeError: there is none.
    """
    component, inner = split_path(pipe, path)
    network = text_encoders_of(pipe).get(component)
    return (denoiser_of(pipe) if network is None else network).get_submodule(inner)
