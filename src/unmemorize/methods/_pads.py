"""Pads of the prompt set to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unmemorize.generation import Drawing, Plan
from unmemorize.methods._embeddings import with_texts
from unmemorize.methods._method import WhileDrawing
from unmemorize.methods._tokens import lengths_of, refuse_other_pads
from unmemorize.pipelines import Model


@dataclass(frozen=True)
class ZeroedPads(WhileDrawing):
    """Sets the embeddings of pads next to the end of the text to zero, with the prompt only.

    It is for text encoders that pad with the end token. "Next to the end" is taken as the first
    pads after it, their number rounded. Nothing masks them: a zero embedding is read like another.

    Args:
        strength: the share of the pads, from 0 to 1. Published: .7; all of them break images.

    Source: "CLIP-embedding view" (arXiv 2605.02908), method 2.

    Examples:
        >>> ZeroedPads().strength
        0.7
    """

    kind: ClassVar[str] = "pads"
    grid: ClassVar[tuple[float, ...]] = (0.3, 0.5, 0.7, 0.9)
    span: ClassVar[tuple[float, float]] = (0.0, 1.0)

    strength: float = 0.7

    def check(self, model: Model) -> None:
        """See `WhileDrawing`.

        Raises:
            MitigationError: texts are not filled up with the end token.
        """
        refuse_other_pads(model, self.kind)

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """See `Intervention`."""
        self.check(model)
        text = model.encode(drawing.prompts).text.clone()
        for row, length in enumerate(lengths_of(model, drawing.prompts, self.kind)):
            pads = text.shape[1] - length
            text[row, length : length + round(self.strength * pads)] = 0
        return Plan(drawing.noise, with_texts(model, drawing, text))
