"""GUARD's attenuation of cross-attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unmemorize.generation import Calls, Drawing, Plan, watching
from unmemorize.methods._keys import multiplied_logits, text_attentions
from unmemorize.methods._method import WhileDrawing
from unmemorize.pipelines import Model, select_value_layers

THRESHOLD = 0.01
"""Standard deviations above the mean from which a token counts as a spike (published, alone)."""
_LEAST_DEVIATION = 1e-6

Rows = Callable[[int], list[int]]
"""The number of rows of a batch -> those in which logits are attenuated."""


@dataclass(frozen=True)
class AttenuatedAttention(WhileDrawing):
    """Multiplies the logits of tokens that draw much attention, with the prompt, in every step.

    In each cross-attention of the down and middle blocks, each head and each image, the score of a
    token is its largest logit over all queries (before the softmax, as in the published code; the
    paper says probability). Tokens whose score is more than .01 standard deviations above the mean
    are spikes. The first token (with CLIP, the start) is never one. The logits of spikes are
    multiplied by ``strength``. As published, negative logits of a spike rise.

    Args:
        strength: the factor, from 0 to 1. Lower is stronger. Published: .3.

    Source: "GUARD", ICML 2026, cross-attention attenuation alone.

    Examples:
        >>> AttenuatedAttention().strength
        0.3
    """

    kind: ClassVar[str] = "attenuation"
    grid: ClassVar[tuple[float, ...]] = (0.7, 0.5, 0.3, 0.1)
    span: ClassVar[tuple[float, float]] = (0.0, 1.0)

    strength: float = 0.3

    def check(self, model: Model) -> None:
        """See `WhileDrawing`.

        Raises:
            MitigationError: there is no cross-attention.
        """
        early_attentions(model, self.kind)

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """See `Intervention`."""
        self.check(model)
        return Plan(drawing.noise, self._context(model, drawing))

    @contextmanager
    def _context(self, model: Model, drawing: Drawing) -> Iterator[None]:
        with watching(model, drawing) as calls:
            rows = rows_of(calls)
            with attenuated(model, self.kind, rows, factor=self.strength, threshold=THRESHOLD):
                yield


def rows_of(calls: Calls) -> Rows:
    """Return a function that gives the rows of the call in progress."""

    def rows(size: int) -> list[int]:
        call = calls.current
        # calls of another size are those of another intervention of the batch
        return call.rows if call is not None and call.size == size else []

    return rows


def early_attentions(model: Model, method: str) -> dict[str, Any]:
    """Return the cross-attentions of down and middle blocks; of a transformer, all of them.

    Raises:
        MitigationError: the model has no cross-attention.
    """
    paths = {path.rpartition(".")[0] for path in select_value_layers(model.value_layers)}
    return {
        path: module for path, module in text_attentions(model, method).items() if path in paths
    }


@contextmanager
def attenuated(
    model: Model,
    method: str,
    rows: Rows,
    *,
    factor: float,
    threshold: float,
) -> Iterator[None]:
    """Attenuate spikes while the context lasts.

    Args:
        model: the model.
        method: the name of the method, for errors.
        rows: see `Rows`.
        factor: what logits of spikes are multiplied by.
        threshold: in standard deviations above the mean.
    """

    def factors(queries: Tensor, keys: Tensor) -> Tensor | None:
        chosen = rows(len(keys))
        if not chosen:
            return None
        spikes = spikes_of(queries[chosen], keys[chosen], threshold)
        result = torch.ones(keys.shape[:3], dtype=torch.float32, device=keys.device)
        result[chosen] = result[chosen].masked_fill(spikes, factor)
        return result

    with multiplied_logits(early_attentions(model, method), factors):
        yield


def spikes_of(queries: Tensor, keys: Tensor, threshold: float) -> Tensor:
    """Tell which tokens draw more attention than others.

    Args:
        queries: (B, heads, image tokens, d).
        keys: (B, heads, text tokens, d). Products with queries are logits.
        threshold: in standard deviations above the mean.

    Returns:
        Whether a token is a spike, (B, heads, text tokens).
    """
    logits = queries.float() @ keys.float().transpose(-1, -2)
    scores = logits.amax(dim=2)[..., 1:]  # without the start of the text
    deviation = scores.std(dim=-1, keepdim=True)
    standard = (scores - scores.mean(dim=-1, keepdim=True)) / (deviation + _LEAST_DEVIATION)
    first = torch.zeros_like(standard[..., :1], dtype=torch.bool)
    return torch.cat([first, standard > threshold], dim=-1)
