"""Other text embeddings in the place of those that a pipeline makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from unmemorize.generation import DenoiserCall, Drawing, watching
from unmemorize.pipelines import Conditioning, Model

_TEXT = "encoder_hidden_states"


def with_text(text: Conditioning, embeddings: Tensor) -> Conditioning:
    """Return encoded prompts with other embeddings, (prompts, tokens, features)."""
    return replace(text, samples={**text.samples, (_TEXT,): embeddings})


@contextmanager
def with_texts(model: Model, drawing: Drawing, embeddings: Tensor) -> Iterator[None]:
    """Give the denoiser other text embeddings for the images of a drawing.

    Rows without text, and other images of the batch, keep theirs.

    Args:
        model: the model.
        drawing: the images.
        embeddings: one for each image, (images, tokens, features).
    """

    def reads(call: DenoiserCall) -> None:
        text = call.arguments[_TEXT].clone()
        text[call.rows] = embeddings.to(text)
        call.arguments[_TEXT] = text

    with watching(model, drawing, reads):
        yield
