"""Prompts with textual inversions, as a pipeline hands them to its tokenizers."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from unmemorize.pipelines._quiet import quiet_loading


def expanded(pipe: Any, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Write a word that stands for several vectors as one word for each of them.

    A pipeline does so before it encodes a prompt, so lengths and positions of tokens count after
    it.
    """
    expand = getattr(pipe, "maybe_convert_prompt", None)
    if expand is None:
        return text
    with quiet_loading():  # tokenizers name long prompts
        return str(expand(text, tokenizer))
