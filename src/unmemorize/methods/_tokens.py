"""What the positions of a text sequence are: start, words, end, pads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from unmemorize._errors import MitigationError
from unmemorize.pipelines import Model, expanded


def tokenizers_of(model: Model) -> dict[str, Any]:
    """Return the tokenizers that the pipeline uses, by component."""
    components = model.pipe.components
    return {
        name: tokenizer
        for name, tokenizer in components.items()
        if isinstance(tokenizer, PreTrainedTokenizerBase)
        and components.get(name.replace("tokenizer", "text_encoder")) is not None
    }


def first_tokenizer(model: Model, method: str) -> Any:
    """Return the first tokenizer.

    Raises:
        MitigationError: there is none.
    """
    for tokenizer in tokenizers_of(model).values():
        return tokenizer
    raise MitigationError(
        f"{method}: {type(model.pipe).__name__} has no tokenizer, so no tokens are known. "
        "Use a method that changes noise or guidance."
    )


def lengths_of(model: Model, prompts: Sequence[str], method: str) -> list[int]:
    """Return how many tokens each prompt has, with the start and the first end of the text.

    Raises:
        MitigationError: the text sequence is not that of tokenizers that put a start and an end
            around the words and fill up with pads.
    """
    refuse_other_sequences(model, method)
    tokenizer = first_tokenizer(model, method)
    limit = tokenizer.model_max_length
    read = [expanded(model.pipe, tokenizer, prompt) for prompt in prompts]
    return [len(tokenizer(text, truncation=True, max_length=limit)["input_ids"]) for text in read]


def refuse_other_sequences(model: Model, method: str) -> None:
    """Refuse a model whose text sequence is not start, words, end, pads, as CLIP's is.

    Raises:
        MitigationError: it is one.
    """
    tokens = model.encode(["a"]).text.shape[1]
    first_tokenizer(model, method)
    for name, tokenizer in tokenizers_of(model).items():
        ids = tokenizer("a", verbose=False)["input_ids"]
        if (
            tokenizer.model_max_length != tokens
            or tokenizer.bos_token_id is None
            or (ids[0], ids[-1]) != (tokenizer.bos_token_id, tokenizer.eos_token_id)
        ):
            raise MitigationError(
                f"{method}: the {name} of {type(model.pipe).__name__} does not give {tokens} "
                "tokens that begin with a start and have an end after the words, as CLIP's does, "
                "so the method is not defined for it. Use random-tokens or embedding."
            )


def refuse_other_pads(model: Model, method: str) -> None:
    """Refuse a model that does not fill up texts with the end token.

    Raises:
        MitigationError: it is one.
    """
    refuse_other_sequences(model, method)
    for name, tokenizer in tokenizers_of(model).items():
        if tokenizer.pad_token_id != tokenizer.eos_token_id:
            raise MitigationError(
                f"{method}: the {name} of {type(model.pipe).__name__} pads with "
                f"{tokenizer.pad_token!r}, not with the end of the text, whose copies this method "
                "takes away. Use attention, which masks pads of any kind."
            )
