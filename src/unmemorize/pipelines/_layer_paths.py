"""Layers by path, those of the denoiser and of text encoders.

The path of a layer of the denoiser is that in the denoiser, such as "mid_block.attn2.to_v". The
path of a layer of a text encoder begins with the name of that component, such as
"text_encoder.text_model.encoder.layers.0.mlp.fc1".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from diffusers import DiffusionPipeline
from torch import nn

from unmemorize.pipelines._denoiser import name_of_denoiser
from unmemorize.pipelines._model import Model

_TEXT = "text_encoder"
Value = TypeVar("Value")


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
        >>> model = Model.load("testbed")
        >>> split_path(model.pipe, "text_encoder.text_model.encoder.layers.0")
        ('text_encoder', 'text_model.encoder.layers.0')
    """
    component, _, inner = path.partition(".")
    if component.startswith(_TEXT) and isinstance(getattr(pipe, component, None), nn.Module):
        return component, inner
    return name_of_denoiser(pipe), path


def by_component(
    pipe: DiffusionPipeline, layers: Mapping[str, Value]
) -> dict[str, dict[str, Value]]:
    """Sort what belongs to layers by component: component -> path there -> value."""
    found: dict[str, dict[str, Value]] = {}
    for path, value in layers.items():
        component, inner = split_path(pipe, path)
        found.setdefault(component, {})[inner] = value
    return found


def layer_at(model: Model, path: str) -> nn.Module:
    """Return the layer at a path.

    Raises:
        AttributeError: there is none.
    """
    component, inner = split_path(model.pipe, path)
    if not component.startswith(_TEXT):
        return model.denoiser.get_submodule(inner)
    encoder: nn.Module = getattr(model.pipe, component)
    whole: nn.Module = getattr(encoder, "_orig_mod", encoder)
    return whole.get_submodule(inner)
