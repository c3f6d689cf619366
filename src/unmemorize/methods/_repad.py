"""Another token in the place of pads."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from unmemorize._errors import MitigationError
from unmemorize.generation import Drawing, Plan
from unmemorize.methods._embeddings import with_texts
from unmemorize.methods._method import WhileDrawing
from unmemorize.methods._tokens import lengths_of, refuse_other_pads, tokenizers_of
from unmemorize.pipelines import Model

PAD = "!"
"""The published pad. It has id 0 in the tokenizer of CLIP."""


@dataclass(frozen=True)
class OtherPads(WhileDrawing):
    """Fills the prompt up with "!" in place of the end token, and fades the one end token left.

    Args:
        strength: how much of the embedding of the end token is taken away, from 0 (published method
            1a) to 1 (published method 1b).

    Source: "CLIP-embedding view" (arXiv 2605.02908), methods 1a and 1b.

    Examples:
        >>> OtherPads().strength
        1.0
    """

    kind: ClassVar[str] = "repad"
    grid: ClassVar[tuple[float, ...]] = (0.0, 0.5, 1.0)
    span: ClassVar[tuple[float, float]] = (0.0, 1.0)

    strength: float = 1.0

    def check(self, model: Model) -> None:
        """See `WhileDrawing`.

        Raises:
            MitigationError: texts are not filled up with the end token, or "!" is no token.
        """
        refuse_other_pads(model, self.kind)
        for name, tokenizer in tokenizers_of(model).items():
            if PAD not in tokenizer.get_vocab():
                raise MitigationError(
                    f"{self.kind}: the {name} of {type(model.pipe).__name__} has no token {PAD!r} "
                    "to pad with. Use pads."
                )

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """See `Intervention`."""
        self.check(model)
        text = repadded(model, drawing.prompts)
        for row, length in enumerate(lengths_of(model, drawing.prompts, self.kind)):
            text[row, length - 1] *= 1 - self.strength
        return Plan(drawing.noise, with_texts(model, drawing, text))


def repadded(model: Model, prompts: tuple[str, ...]) -> Tensor:
    """Encode prompts that are filled up with "!", (prompts, tokens, features)."""
    others = {}
    for name, tokenizer in tokenizers_of(model).items():
        others[name] = copy.deepcopy(tokenizer)
        others[name].pad_token = PAD
    with _components(model.pipe, others):
        return model.encode(prompts).text.clone()


@contextmanager
def _components(pipe: Any, others: Mapping[str, Any]) -> Iterator[None]:
    """Put other components in the place of a pipeline's while the context lasts."""
    before = {name: getattr(pipe, name) for name in others}
    try:
        for name, component in others.items():
            # the pipeline's own __setattr__ would write the replacement into its config
            object.__setattr__(pipe, name, component)
        yield
    finally:
        for name, component in before.items():
            object.__setattr__(pipe, name, component)
