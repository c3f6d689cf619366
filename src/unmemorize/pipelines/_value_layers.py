"""Which linear layers of a denoiser project text to attention values; found from the model, never from a list of paths.

Paper: section 3 (value layers of the cross-attention); the layers searched by default are those of its section 4.
"""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Iterable

from torch import nn

from unmemorize._errors import ModelError
from unmemorize.pipelines._denoiser import is_linear

_STAGES = ("down_blocks", "mid_block", "up_blocks")
SEARCHED_STAGES = ("down_blocks", "mid_block")
_CROSS = "attn2.to_v"
_ADDED = "add_v_proj"
_SINGLE_STREAM = "single_transformer_blocks.*.attn.to_v"
_named: list[str] = []


def name_value_layers(pattern: str | None) -> None:
    """Say which linear layers are value layers, for an architecture that is not known; they must project text alone.

    Args:
        pattern: with ``*`` over the paths of the denoiser's modules; None forgets it.
    """
    _named[:] = [] if pattern is None else [pattern]


def named_value_layers() -> str | None:
    """The pattern that `name_value_layers` was given."""
    return _named[0] if _named else None


def find_value_layers(denoiser: nn.Module) -> dict[str, nn.Linear]:
    """All value layers by dotted path, in the order in which the denoiser runs them.

    These are ``attn2.to_v`` of cross-attentions (an ``attn2`` that attends to the image itself is none), ``add_v_proj`` of attentions that
    add text to the image (DeepFloyd IF) or join both (Stable Diffusion 3, Flux), and in single-stream blocks that are given text and image
    apart (Flux) ``attn.to_v``, whose neurons count for the text tokens only, see `text_rows_only`.

    Raises:
        ModelError: there is none.
    """
    modules = {
        name: module
        for name, module in denoiser.named_modules()
        if is_linear(module) and not name.endswith("base_layer")
    }

    def is_value_layer(name: str) -> bool:
        if _named:
            return any(fnmatch.fnmatchcase(name, pattern) for pattern in _named)
        if name.endswith(_CROSS):
            return bool(
                getattr(
                    denoiser.get_submodule(name.removesuffix(".to_v")), "is_cross_attention", True
                )
            )
        if text_rows_only(
            name
        ):  # a block that is given both as one may have more in front than the text
            block = denoiser.get_submodule(name.removesuffix(".attn.to_v"))
            return "encoder_hidden_states" in inspect.signature(block.forward).parameters
        return name.rpartition(".")[2] == _ADDED

    found = {name: module for name, module in modules.items() if is_value_layer(name)}
    if not found:
        looked_for = _named[0] if _named else f"*{_CROSS}, *{_ADDED} or {_SINGLE_STREAM}"
        there = sorted({name.rpartition(".")[2] for name in modules})
        raise ModelError(
            f"{type(denoiser).__name__}: no value layer found. Looked for linear layers {looked_for}; "
            f"its linear layers are called {', '.join(there[:12]) or '(none)'}. Use a model that reads text by attention, "
            f"or name its value layers: --value-layers PATTERN, in Python name_value_layers(PATTERN)."
        )
    # diffusers registers the middle block after the up blocks, but runs it before them
    return dict(sorted(found.items(), key=lambda item: _stage(item[0])))


def refuse_fused(denoiser: nn.Module, paths: Iterable[str]) -> None:
    """See that value layers are called.

    Raises:
        ModelError: the projections of an attention are fused, so that its value layer is not.
    """
    for path in paths:
        if getattr(denoiser.get_submodule(path.rpartition(".")[0]), "fused_projections", False):
            raise ModelError(
                f"{path}: its projections are fused, so that it is not called. Call pipe.unfuse_qkv_projections() first."
            )


def text_rows_only(path: str) -> bool:
    """Whether the layer projects text and image together, text first, so that its neurons are switched for the text alone."""
    return fnmatch.fnmatchcase(path, _SINGLE_STREAM)


def select_value_layers(
    layers: dict[str, nn.Linear], scope: str = "default"
) -> dict[str, nn.Linear]:
    """The layers that are searched.

    Args:
        layers: all value layers, see `find_value_layers`.
        scope: "default" (of a U-Net the down and middle blocks, as in the paper; of a transformer all), "all", or a pattern with ``*``
            over the paths.

    Raises:
        ModelError: nothing matches.
    """
    if scope == "all":
        return layers
    if scope == "default":
        chosen = {
            path: layer for path, layer in layers.items() if path.startswith(SEARCHED_STAGES)
        } or layers
    else:
        chosen = {path: layer for path, layer in layers.items() if fnmatch.fnmatchcase(path, scope)}
    if not chosen:
        raise ModelError(
            f"layers {scope!r}: no value layer matches. This model has {', '.join(layers)}."
        )
    return chosen


def _stage(path: str) -> int:
    head = path.split(".", 1)[0]
    return _STAGES.index(head) if head in _STAGES else len(_STAGES)
