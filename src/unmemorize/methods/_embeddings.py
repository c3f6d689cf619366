"""Other text embeddings in the place of those that a pipeline makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from unmemorize.generation import Drawing, DrawingCall, watching
from unmemorize.pipelines import Model


@contextmanager
def with_texts(model: Model, drawing: Drawing, embeddings: Tensor) -> Iterator[None]:
    """Give the denoiser other text embeddings for the images of a drawing.

    Rows without text, and other images of the batch, keep theirs. Perturbed-attention guidance has
    the images twice with their text, one copy of the batch after the other.

    Args:
        model: the model.
        drawing: the images.
        embeddings: one for each image, (images, tokens, features).
    """

    def reads(call: DrawingCall) -> None:
        text = call.text.clone()
        copies = len(call.rows) // len(embeddings)
        text[call.rows] = embeddings.repeat(copies, 1, 1).to(text)
        call.text = text

    with watching(model, drawing, reads):
        yield
