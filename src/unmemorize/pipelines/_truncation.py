"""Which prompts a pipeline reads only in part, because its tokenizers cut them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from unmemorize.pipelines._textual_inversion import expanded

log = logging.getLogger(__name__)

_LARGEST_LIMIT = 10**6
"""Tokens. Tokenizers that know no limit state a larger number."""
_MOST_WARNINGS = 20
"""How many warnings there are at most. A list of ordinary captions may hold hundreds."""


@dataclass(frozen=True)
class _Reader:
    """A tokenizer with how many of its tokens are read; None if not known."""

    tokenizer: PreTrainedTokenizerBase
    limit: int | None


class Truncation:
    """Warns of prompts that a pipeline reads only in part, each once.

    Args:
        pipe: a loaded pipeline.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe, self._kind = pipe, type(pipe).__name__
        # what one tokenizer cuts, another may read: Flux reads 77 tokens by CLIP and 512 by T5
        self._reader: _Reader | None = max(
            _readers(pipe), key=lambda reader: reader.limit or _LARGEST_LIMIT, default=None
        )
        self._texts: dict[tuple[int, ...], str] = {}
        self._seen: set[str] = set()
        self._warnings = 0

    def warn(self, texts: Iterable[str]) -> None:
        """Warn of truncated prompts, and of those that are equal in the part that is read."""
        if self._reader is None or self._reader.limit is None:
            return
        for text in texts:
            read = expanded(self._pipe, self._reader.tokenizer, text)
            if len(read.encode()) + 2 >= self._reader.limit:  # a token is a byte or a mark
                self._look_at(text, read, self._reader.tokenizer, self._reader.limit)

    def _look_at(
        self, text: str, read: str, tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> None:
        tokens = tokenizer(read, verbose=False)["input_ids"]
        if len(tokens) < limit or text in self._seen:
            return
        self._seen.add(text)
        kept = tokenizer(read, truncation=True, max_length=limit)["input_ids"]
        if len(tokens) > limit:
            end = tokenizer.decode(kept, skip_special_tokens=True)[-30:]
            self._say(
                f"prompt {_shortened(text)}: {len(tokens)} tokens, of which {self._kind} reads "
                f"{limit}. What follows {end!r} is ignored."
            )
        earlier = self._texts.setdefault(tuple(kept), text)
        if earlier != text:
            self._say(
                f"prompts {_shortened(earlier)} and {_shortened(text)}: they are one prompt to "
                f"{self._kind}, because they differ only after the {limit} tokens that it reads."
            )

    def _say(self, message: str) -> None:
        self._warnings += 1
        if self._warnings <= _MOST_WARNINGS:
            log.warning("%s", message)
        if self._warnings == _MOST_WARNINGS:
            log.warning("further prompts that are read only in part are not named")


def _readers(pipe: Any) -> Iterator[_Reader]:
    """Yield the tokenizers in use."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    of_pipeline = getattr(parameters.get("max_sequence_length"), "default", None)
    for name, tokenizer in pipe.components.items():
        encoder = pipe.components.get(name.replace("tokenizer", "text_encoder"))
        if not isinstance(tokenizer, PreTrainedTokenizerBase) or encoder is None:
            continue
        config = getattr(encoder, "config", None)
        stated = (
            of_pipeline,
            getattr(tokenizer, "model_max_length", None),
            getattr(config, "max_position_embeddings", None),
        )
        limits = [limit for limit in stated if isinstance(limit, int) and limit < _LARGEST_LIMIT]
        yield _Reader(tokenizer, min(limits, default=None))


def _shortened(text: str) -> str:
    """Return the beginning and the end of a text, where truncated ones differ."""
    return repr(text) if len(text) <= 60 else f"{text[:30]!r} ... {text[-30:]!r}"
