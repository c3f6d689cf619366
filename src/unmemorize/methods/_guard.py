"""GUARD: towards the prompt with attenuated attention, away from the prompt as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unmemorize.generation import Drawing, DrawingCall, Plan
from unmemorize.methods._attenuation import attenuated, early_attentions
from unmemorize.methods._guidance import OtherGuidance, directed
from unmemorize.pipelines import Model

_FACTOR, _THRESHOLD = 0.3, 0.1
"""Published for the attenuation within GUARD."""


@dataclass(frozen=True)
class RepelledGuidance(OtherGuidance):
    """Guides towards the prompt with attenuated attention and away from the prompt as it is.

    The prediction of step i of S is o + g (a - o) - strength cos(pi i / 2S) (c - o), with o without
    text, c with the prompt, and a with the prompt and attenuated attention (`AttenuatedAttention`,
    with a threshold of .1). It takes three predictions per step in place of two.

    Args:
        strength: of the repulsion. Published: 2 (the examples) and 3 (the script's default).

    Source: "GUARD", ICML 2026.

    Examples:
        >>> RepelledGuidance().strength
        2.0
    """

    kind: ClassVar[str] = "guard"
    grid: ClassVar[tuple[float, ...]] = (1.0, 2.0, 3.0)

    strength: float = 2.0

    def check(self, model: Model) -> None:
        """See `WhileDrawing`.

        Raises:
            MitigationError: there is no cross-attention, or no prediction without text.
        """
        early_attentions(model, self.kind)
        super().check(model)

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """See `Intervention`."""
        self.check(model)
        return Plan(drawing.noise, self._context(model, drawing))

    @contextmanager
    def _context(self, model: Model, drawing: Drawing) -> Iterator[None]:
        own = [index for index, row in enumerate(drawing.rows) if row]
        attended: list[int] = []

        def direction(call: DrawingCall, without: Tensor, text: Tensor) -> Tensor:
            # another pass of all prompts of the batch, since edits of others apply by position
            whole = call.taken(call.whole)
            attended[:] = own
            try:
                output: Tensor = model.denoiser.forward(**whole)[0]
            finally:
                attended.clear()
            repulsion = self.strength * math.cos(math.pi * call.step / (2 * drawing.steps))
            towards = output[own, : text.shape[1]].float()
            attraction = drawing.guidance * (towards - without)
            return attraction - repulsion * (text - without)

        with (
            directed(model, drawing, self.kind, direction),
            attenuated(model, self.kind, lambda _: attended, factor=_FACTOR, threshold=_THRESHOLD),
        ):
            yield
