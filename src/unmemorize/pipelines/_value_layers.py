"""Which linear layers of a denoiser project text to attention values.

They are found in the model itself, never in a list of paths. Paper: section 3 (value layers of the
cross-attention) and section 4 (the layers that are searched by default).
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
_JOINT = (".to_v", ".to_qkv", ".qkv")
_SINGLE_STREAM = "single_transformer_blocks.*.attn.to_v"


def find_value_layers(denoiser: nn.Module, pattern: str | None = None) -> dict[str, nn.Linear]:
    """Find all value layers by dotted path, in the order in which the denoiser runs them.

    These are ``attn2.to_v`` of cross-attentions (but not of an ``attn2`` that attends to the image
    itself), ``add_v_proj`` of attentions that add text to the image (DeepFloyd IF) or join both
    (Stable Diffusion 3, Flux), and ``attn.to_v`` of single-stream blocks that receive text and
    image separately (Flux). The neurons of the last kind count for text tokens only, see
    `text_rows_only`.

    Args:
        denoiser: the U-Net or transformer.
        pattern: takes the place of these rules; ``*`` matches any part of a path.

    Raises:
        ModelError: there is none.
    """
    modules = {
        name: module
        for name, module in denoiser.named_modules()
        if is_linear(module) and not name.endswith("base_layer")
    }
    if pattern is None:
        found = {name: module for name, module in modules.items() if _reads_text(denoiser, name)}
    else:
        found = {
            name: module for name, module in modules.items() if fnmatch.fnmatchcase(name, pattern)
        }
    if not found and pattern is None:
        _refuse_joint(denoiser, modules)
    if not found:
        looked_for = pattern or f"*{_CROSS}, *{_ADDED} or {_SINGLE_STREAM}"
        there = sorted({name.rpartition(".")[2] for name in modules})
        raise ModelError(
            f"{type(denoiser).__name__}: no value layer found. Looked for linear layers "
            f"{looked_for}; its linear layers are called {', '.join(there[:12]) or '(none)'}. "
            "Use a model that reads text by attention, or name its value layers: "
            "--value-layers PATTERN, in Python Model(pipe, value_layers=PATTERN)."
        )
    # diffusers registers the middle block after the up blocks but runs it before them
    return dict(sorted(found.items(), key=lambda item: _stage(item[0])))


def _refuse_joint(denoiser: nn.Module, linear_layers: Iterable[str]) -> None:
    """Refuse denoisers that project text and image by the same layers.

    Raises:
        ModelError: it is one.
    """
    joint = [path for path in linear_layers if path.endswith(_JOINT)]
    if joint and "encoder_hidden_states" in inspect.signature(denoiser.forward).parameters:
        raise ModelError(
            f"{type(denoiser).__name__}: its attention projects text and image together "
            f"({joint[-1]}), so no neuron belongs to the text alone, and the model is not "
            "supported. Use one that has cross-attention or separate projections of the text."
        )


def _reads_text(denoiser: nn.Module, name: str) -> bool:
    if name.endswith(_CROSS):
        attention = denoiser.get_submodule(name.removesuffix(".to_v"))
        return bool(getattr(attention, "is_cross_attention", True))
    if text_rows_only(name):  # a block that receives both joined may have more than text in front
        block = denoiser.get_submodule(name.removesuffix(".attn.to_v"))
        return "encoder_hidden_states" in inspect.signature(block.forward).parameters
    return name.rpartition(".")[2] == _ADDED


def refuse_fused(denoiser: nn.Module, paths: Iterable[str]) -> None:
    """Refuse value layers that diffusers does not call because their projections are fused.

    Raises:
        ModelError: the projections of an attention are fused.
    """
    for path in paths:
        if getattr(denoiser.get_submodule(path.rpartition(".")[0]), "fused_projections", False):
            raise ModelError(
                f"{path}: its projections are fused, so it is never called. "
                "Call pipe.unfuse_qkv_projections() first."
            )


def text_rows_only(path: str) -> bool:
    """Whether the layer projects text and image together, text first.

    Its neurons are then switched for the text tokens alone.
    """
    return fnmatch.fnmatchcase(path, _SINGLE_STREAM)


def select_value_layers(
    layers: dict[str, nn.Linear], scope: str = "default"
) -> dict[str, nn.Linear]:
    """Choose the value layers to search.

    Args:
        layers: all value layers, see `find_value_layers`.
        scope: "default" (the down and middle blocks of a U-Net, as in the paper; every layer of a
            transformer), "all", or a pattern with ``*`` over the paths.

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
