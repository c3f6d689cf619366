"""Cross-attention probabilities: how much each pixel looks at each token of the text.

They are computed from what an attention passes to torch while it runs, so rotations, norms and
masks count, and the attention itself computes as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from unmemorize._errors import ModelError
from unmemorize.pipelines._value_layers import text_rows_only

if TYPE_CHECKING:
    from unmemorize.pipelines._model import Model


def cross_attentions(model: Model) -> dict[str, nn.Module]:
    """Find the attentions of the image to the text alone, by path, in the order in which they run.

    A model that attends to text and image jointly has none.
    """
    paths = [
        path.removesuffix(".to_v")
        for path in model.value_layers
        if path.endswith(".to_v") and not text_rows_only(path)
    ]
    return {path: model.denoiser.get_submodule(path) for path in paths}


@contextmanager
def watching_attention(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Fill a dictionary with attention probabilities by layer while the context lasts.

    Args:
        layers: attentions by path, see `cross_attentions`.

    Yields:
        layer -> probabilities (B, pixels, tokens), float32, the mean over the heads.
    """
    watch = _Watch()

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            watch.layer = path

        return hook

    def leave(*_: object) -> None:
        watch.layer = None

    with ExitStack() as stack:
        for path, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(enter(path)).remove)
            stack.callback(layer.register_forward_hook(leave).remove)
        stack.enter_context(watch)
        yield watch.probabilities


def refuse_unseen(probabilities: Mapping[str, Tensor], layers: Mapping[str, nn.Module]) -> None:
    """Refuse attentions that did not show their probabilities.

    Raises:
        ModelError: an attention uses another function than torch's.
    """
    for path, layer in layers.items():
        if path not in probabilities:
            kind = type(getattr(layer, "processor", layer)).__name__
            raise ModelError(
                f"{path}: {kind} shows no attention probabilities. Set the usual processors: "
                "set_attn_processor(AttnProcessor2_0()) of the denoiser."
            )


class _Watch(TorchFunctionMode):
    """Sees each attention that torch computes while ``layer`` names one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: str | None = None
        self.probabilities: dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention and self.layer is not None:
            layer, self.layer = self.layer, None  # what is computed here is not to be seen
            named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False))
            self.probabilities[layer] = _probabilities(**named, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _probabilities(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
    **_: object,
) -> Tensor:
    """Return softmax(query key^T scale + mask), averaged over the heads, (B, pixels, tokens)."""
    logits = query.float() @ key.float().mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        logits = logits + attn_mask
    return logits.softmax(-1).mean(1)
