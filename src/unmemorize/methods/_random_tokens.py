"""Random tokens in the prompt."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from unmemorize.methods._method import WhileDrawing
from unmemorize.methods._tokens import first_tokenizer
from unmemorize.pipelines import Model


@dataclass(frozen=True)
class RandomTokens(WhileDrawing):
    """Inserts random tokens at random word positions of the prompt.

    Tokens are drawn from the whole vocabulary without special tokens, positions uniformly among the
    gaps between words. Both follow from ``seed``, the prompt and the seed of the image's noise, so
    no other image changes them.

    Args:
        strength: how many tokens, a whole number. Published: 1, 4 and 10.
        seed: of tokens and positions.

    Source: Somepalli et al., NeurIPS 2023 ("random token addition", style of words).

    Examples:
        >>> RandomTokens(4).to_json()
        {'kind': 'random-tokens', 'strength': 4.0, 'seed': 0}
    """

    kind: ClassVar[str] = "random-tokens"
    grid: ClassVar[tuple[float, ...]] = (1.0, 4.0, 10.0)
    whole: ClassVar[bool] = True

    strength: float = 4.0
    seed: int = 0

    def check(self, model: Model) -> None:
        """See `WhileDrawing`.

        Raises:
            MitigationError: the pipeline has no tokenizer.
        """
        first_tokenizer(model, self.kind)

    def rewritten(self, model: Model, prompt: str, seed: int) -> str:
        """Insert the tokens, see `Intervention`."""
        tokenizer = first_tokenizer(model, self.kind)
        special = set(tokenizer.all_special_ids)
        drawn = random.Random(f"{self.seed} {seed} {prompt}")
        words = prompt.split()
        for _ in range(int(self.strength)):
            word = ""
            while not word:
                token = drawn.randrange(len(tokenizer))
                word = "" if token in special else str(tokenizer.decode([token])).strip()
            words.insert(drawn.randint(0, len(words)), word)
        return " ".join(words)
