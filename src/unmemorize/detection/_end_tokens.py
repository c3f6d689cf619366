"""Where the words of a prompt end among the tokens that the denoiser reads."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import CLIPTokenizer

from unmemorize._errors import ModelError
from unmemorize.pipelines import Model, expanded


def end_tokens(model: Model, texts: Sequence[str]) -> list[int]:
    """Return the position of the first end token of each text.

    Raises:
        ModelError: the text is not encoded by CLIP alone, whose end token sums up the words.
    """
    tokenizer = getattr(model.pipe, "tokenizer", None)
    length = model.encode([""]).text.shape[1]
    if not isinstance(tokenizer, CLIPTokenizer) or tokenizer.model_max_length != length:
        raise ModelError(
            f"{model.name}: its text is not encoded by CLIP alone, so no token sums up the words "
            "at their end. Use a detector that does not look at that token, such as layer-entropy "
            "or late-noise-magnitude."
        )
    read = [expanded(model.pipe, tokenizer, text) for text in texts]
    encoded = tokenizer(read, truncation=True, max_length=length)["input_ids"]
    return [len(ids) - 1 for ids in encoded]
