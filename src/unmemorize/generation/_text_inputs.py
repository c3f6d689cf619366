"""The layers that project text to keys and values, and what they read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from unmemorize._errors import EditError
from unmemorize.pipelines import Model, first_input

_KEYS_BESIDE = {"to_v": "to_k", "add_v_proj": "add_k_proj"}
"""Name of a value layer -> name of the key layer that reads the same."""
_AT_ONCE = 16
"""Captions per pass of the text encoder."""
_SAME = 1e-3
"""Relative distance below which two tokens are the same: half precision rounds by less."""


def text_projections(model: Model) -> dict[str, nn.Module]:
    """Return all layers that project the text to keys and values, by path.

    Raises:
        EditError: the layers do not all read the same text, or a value layer has no key layer.
    """
    if model.value_input == "denoiser":
        raise EditError(
            f"{model.name}: its value layers read features that depend on the image and the "
            "timestep, not one text stream, so its keys and values of the text cannot be edited "
            "(by a closed form or by esd). Switch neurons off."
        )
    layers: dict[str, nn.Module] = {}
    for path, layer in model.value_layers.items():
        parent, _, name = path.rpartition(".")
        attention = model.denoiser.get_submodule(parent)
        key = getattr(attention, _KEYS_BESIDE.get(name, ""), None)
        if key is None:
            raise EditError(
                f"{path}: the layer that projects keys beside it is not known. Switch neurons off, "
                f"or name value layers that are called {' or '.join(_KEYS_BESIDE)}."
            )
        layers[f"{parent}.{_KEYS_BESIDE[name]}"] = key
        layers[path] = layer
    return layers


def has_closed_form(model: Model) -> bool:
    """Whether all layers that project text read the same, so closed-form edits exist."""
    try:
        text_projections(model)
    except EditError:
        return False
    return True


@torch.no_grad()
def text_inputs(model: Model, captions: Sequence[str]) -> Iterator[Tensor]:
    """Yield what the projections of a model read for captions, a few captions at a time.

    Edits that are applied to the model meanwhile do not count.

    Yields:
        (captions, tokens, features), float64, on the CPU.
    """
    for start in range(0, len(captions), _AT_ONCE):
        text = model.encode(captions[start : start + _AT_ONCE])
        read = text.text if model.value_input == "text" else first_input(model, text)
        yield read.to("cpu", torch.float64)


def own_tokens(read: Tensor, target: Tensor) -> Tensor:
    """Tell which tokens of captions differ from those of other captions at their positions.

    With causal text encoders the start of the text is the same in all captions.

    Args:
        read: what projections read for captions, (captions, tokens, features).
        target: the same for the other captions, (captions, tokens, features).

    Returns:
        Whether they differ by more than rounding, (captions, tokens).
    """
    differs: Tensor = (read - target).norm(dim=-1) > _SAME * target.norm(dim=-1)
    return differs


def moved_tokens(
    model: Model, captions: Sequence[str], guides: Sequence[str]
) -> list[tuple[Tensor, Tensor]]:
    """Return the tokens of each caption that differ from those of its guide, and the ways there.

    Returns:
        For each caption two tensors (its differing tokens, features), float64, on the CPU: what
        projections read for it, and what they read for the guide at the same positions, less that.
    """
    moves = []
    for read, wanted in zip(text_inputs(model, captions), text_inputs(model, guides), strict=True):
        ways, own = wanted - read, own_tokens(read, wanted)
        moves += [(read[i][own[i]], ways[i][own[i]]) for i in range(len(read))]
    return moves


def text_moment(model: Model, captions: Sequence[str]) -> Tensor:
    """Sum c c^T over all tokens of captions, (features, features); 0 without a caption.

    The model remembers it, since all edits of a search keep the same captions.
    """

    def summed() -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for read in text_inputs(model, captions):
            tokens = read.flatten(0, 1)
            total = total + tokens.T @ tokens
        return total

    return model.remembered(("text moment", tuple(captions)), summed)
