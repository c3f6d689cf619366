"""Ren's re-scaling of attention."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unmemorize._errors import MitigationError
from unmemorize.generation import Drawing, DrawingCall, Plan, watching
from unmemorize.methods._keys import multiplied_logits, text_attentions
from unmemorize.methods._method import WhileDrawing
from unmemorize.methods._tokens import lengths_of, refuse_other_sequences
from unmemorize.pipelines import Model

_MASK = "encoder_attention_mask"


@dataclass(frozen=True)
class RescaledAttention(WhileDrawing):
    """Masks the pads, and multiplies the logit of the first token, in every cross-attention.

    Tokens after the first end of the text get no attention, with the prompt and without (at the
    positions of the prompt's pads). With the prompt, the logit of the start token is multiplied by
    ``strength`` before the softmax. The published code takes every second row for those with the
    prompt, which is right for one image per prompt only. Here it is the true rows. As published, a
    negative logit becomes smaller, so such a query then pays less attention to the start.

    Args:
        strength: the factor. Published: 1.25, from a grid of 1.15 to 1.35.

    Source: Ren et al., ECCV 2024, section 5.

    Examples:
        >>> RescaledAttention().strength
        1.25
    """

    kind: ClassVar[str] = "attention"
    grid: ClassVar[tuple[float, ...]] = (1.15, 1.2, 1.25, 1.3, 1.35)
    span: ClassVar[tuple[float, float]] = (1.0, math.inf)

    strength: float = 1.25

    def check(self, model: Model) -> None:
        """See `WhileDrawing`.

        Raises:
            MitigationError: there is no cross-attention with a masked sequence of start, words, end
                and pads.
        """
        text_attentions(model, self.kind)
        refuse_other_sequences(model, self.kind)
        if _MASK not in inspect.signature(type(model.denoiser).forward).parameters:
            raise MitigationError(
                f"{self.kind}: {type(model.denoiser).__name__} takes no {_MASK}, so pads cannot be "
                "masked. Use attenuation."
            )

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """See `Intervention`."""
        self.check(model)
        return Plan(drawing.noise, self._context(model, drawing))

    @contextmanager
    def _context(self, model: Model, drawing: Drawing) -> Iterator[None]:
        lengths = lengths_of(model, drawing.prompts, self.kind)

        def reads(call: DrawingCall) -> None:
            tokens = call.text.shape[1]
            given = call.arguments.get(_MASK)
            mask = (
                torch.ones(call.size, tokens, dtype=torch.float32)
                if given is None
                else given.clone()
            )
            for half in (call.rows, call.unconditional):
                for position, row in enumerate(half):
                    mask[row, lengths[position % len(lengths)] :] = 0
            call.arguments[_MASK] = mask.to(call.sample.device)

        with watching(model, drawing, reads) as calls:

            def factors(_queries: Tensor, keys: Tensor) -> Tensor | None:
                if calls.current is None or calls.current.size != len(keys):
                    return None  # another intervention of the batch calls the denoiser
                emphasis = torch.ones(len(keys), 1, keys.shape[2], dtype=torch.float32)
                emphasis[calls.current.rows, :, 0] = self.strength
                return emphasis

            with multiplied_logits(text_attentions(model, self.kind), factors):
                yield
