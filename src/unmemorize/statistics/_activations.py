"""How strongly value neurons respond to a prompt, at the least cost.

Most value layers see the text alone, whatever the image. Where each of them reads the text
embeddings themselves (Stable Diffusion), only these layers run. Where they all read one projection
of the embeddings (PixArt, DeepFloyd IF), the denoiser runs up to the first of them. Where text and
image mix on the way (Stable Diffusion 3, Flux), the denoiser runs once on one initial noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unmemorize.pipelines import (
    Conditioning,
    Model,
    Ragged,
    first_input,
    observe,
    offloads_groups,
    text_rows_only,
)

_PROMPTS_AT_ONCE = 4
"""Prompts per denoiser pass."""


@torch.no_grad()
def activations(model: Model, text: Conditioning) -> dict[str, Tensor]:
    """Compute the activation of every value neuron, layer -> (B, features), float32.

    The activation is the mean over the text's token positions, padding included, of the absolute
    output.

    Args:
        model: the model.
        text: B prompts from `Model.encode`.
    """
    in_groups = offloads_groups(model.denoiser)  # weights of a group arrive when its block runs
    offloaded = in_groups or hasattr(model.denoiser, "_hf_hook")
    if model.value_input == "text" and not offloaded and not isinstance(text, Ragged):
        return {
            path: _mean_absolute(layer(text.text)) for path, layer in model.value_layers.items()
        }
    whole = in_groups or model.value_input == "denoiser"
    compute = _in_a_forward if whole else _from_first_input
    positions: list[int] = []
    chunks = []
    for rows, part in text.groups():
        positions += rows
        for start in range(0, len(part), _PROMPTS_AT_ONCE):
            some = range(start, min(start + _PROMPTS_AT_ONCE, len(part)))
            chunks.append(compute(model, part.take(some)))
    order = sorted(range(len(positions)), key=positions.__getitem__)
    return {
        path: torch.cat([chunk[path] for chunk in chunks])[order] for path in model.value_layers
    }


def _mean_absolute(output: Tensor) -> Tensor:  # (B, tokens, features)
    return output.float().abs().mean(1)


def _in_a_forward(model: Model, text: Conditioning) -> dict[str, Tensor]:
    activation: dict[str, Tensor] = {}
    tokens = text.text.shape[1]

    def note(path: str, _layer_input: Tensor, output: Tensor) -> None:
        activation[path] = _mean_absolute(output[:, :tokens] if text_rows_only(path) else output)

    observe(model, text, note, model.value_layers)
    return activation


def _from_first_input(model: Model, text: Conditioning) -> dict[str, Tensor]:
    read = first_input(model, text)
    return {path: _mean_absolute(layer(read)) for path, layer in model.value_layers.items()}
