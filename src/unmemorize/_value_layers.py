"""Which linear layers of a denoiser project the text embedding to attention values; found from the model, never from a list.

Paper: section 3 (value layers of the cross-attention); the layers searched by default are those of its section 4.
"""

from __future__ import annotations

import fnmatch

from torch import nn

from unmemorize._errors import ModelError

_STAGES = ("down_blocks", "mid_block", "up_blocks")
SEARCHED_STAGES = ("down_blocks", "mid_block")


def find_value_layers(denoiser: nn.Module) -> dict[str, nn.Linear]:
    """All value layers by dotted path, in the order in which the denoiser runs them.

    Raises:
        ModelError: there is no cross-attention value layer.
    """
    found = {name: module for name, module in denoiser.named_modules() if name.endswith("attn2.to_v") and isinstance(module, nn.Linear)}
    if not found:
        looked_at = sorted({name.rsplit(".", 1)[-1] for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)})
        raise ModelError(
            f"{type(denoiser).__name__}: no value layer found. Looked for linear layers whose path ends with attn2.to_v; "
            f"its linear layers are called {', '.join(looked_at[:12]) or '(none)'}. Use a U-Net with cross-attention."
        )
    # diffusers registers the middle block after the up blocks, but runs it before them
    return dict(sorted(found.items(), key=lambda item: _stage(item[0])))


def select_value_layers(layers: dict[str, nn.Linear], scope: str = "default") -> dict[str, nn.Linear]:
    """The layers that are searched.

    Args:
        layers: all value layers, see `find_value_layers`.
        scope: "default" (the down and middle blocks, as in the paper), "all", or a pattern with ``*`` over the paths.

    Raises:
        ModelError: nothing matches.
    """
    if scope == "all":
        return layers
    if scope == "default":
        chosen = {path: layer for path, layer in layers.items() if path.startswith(SEARCHED_STAGES)}
    else:
        chosen = {path: layer for path, layer in layers.items() if fnmatch.fnmatchcase(path, scope)}
    if not chosen:
        raise ModelError(f"layers {scope!r}: no value layer matches. This model has {', '.join(layers)}.")
    return chosen


def _stage(path: str) -> int:
    head = path.split(".", 1)[0]
    return _STAGES.index(head) if head in _STAGES else len(_STAGES)
