"""Logits of cross-attention, multiplied token by token through its keys.

A logit is the product of a query with a key. So it is multiplied by a factor where the key is, in
front of the softmax, whatever carries the attention out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from unmemorize._errors import MitigationError
from unmemorize.pipelines import Model, cross_attentions, refuse_fused

Factors = Callable[[Tensor, Tensor], Tensor | None]
"""(queries (B, heads, image tokens, d), keys (B, heads, text tokens, d)), both scaled so that their
product is the logit -> factors that broadcast over (B, heads, text tokens), or None."""


def text_attentions(model: Model, method: str) -> dict[str, Any]:
    """Return the attentions in which a method multiplies logits of the text, by path.

    Raises:
        MitigationError: the model joins text and image in its attention.
        ModelError: the projections of an attention are fused.
    """
    refuse_fused(model.denoiser, model.value_layers)
    attentions = cross_attentions(model)
    for path in model.value_layers:
        attention = attentions.get(path.rpartition(".")[0])
        if attention is None or not _splits_heads(attention):
            raise MitigationError(
                f"{method}: {path} of {model.name} belongs to an attention that joins text and "
                "image, so there are no logits of the text alone. Use a model with "
                "cross-attention, or a method that changes the embedding, noise or guidance."
            )
    return attentions


def _splits_heads(attention: nn.Module) -> bool:
    return all(hasattr(attention, name) for name in ("to_q", "to_k", "heads", "scale"))


@contextmanager
def multiplied_logits(attentions: dict[str, Any], factors: Factors) -> Iterator[None]:
    """Multiply logits while the context lasts.

    Args:
        attentions: the attention modules by path.
        factors: see `Factors`; called once for each attention of each call.
    """
    with ExitStack() as stack:
        for attention in attentions.values():
            scaling = _Scaling(attention, factors)
            query = getattr(attention, "norm_q", None)
            key = getattr(attention, "norm_k", None)
            for layer, hook in (
                (attention.to_q if query is None else query, scaling.note_queries),
                (attention.to_k if key is None else key, scaling.scale_keys),
            ):
                stack.callback(layer.register_forward_hook(hook).remove)
        yield


@dataclass(eq=False)
class _Scaling:
    """Multiplies the keys of one attention."""

    attention: Any
    factors: Factors
    queries: list[Tensor] = field(default_factory=list)

    def note_queries(self, _layer: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        self.queries[:] = [output]

    def scale_keys(
        self, _layer: nn.Module, _args: tuple[Any, ...], output: Tensor
    ) -> Tensor | None:
        queries = self._by_head(self.queries.pop()) * self.attention.scale
        factors = self.factors(queries, self._by_head(output))
        if factors is None:
            return None
        factors = factors.to(output)[..., None]  # (B, heads, text tokens, 1)
        if output.ndim == 4:
            return output * factors
        keys = self._by_head(output) * factors
        return keys.transpose(1, 2).reshape(output.shape)

    def _by_head(self, projected: Tensor) -> Tensor:
        """Split (B, tokens, heads * d); what a norm returns is split already."""
        if projected.ndim == 4:
            return projected
        heads: int = self.attention.heads
        split: Tensor = projected.unflatten(-1, (heads, -1))
        return split.transpose(1, 2)
