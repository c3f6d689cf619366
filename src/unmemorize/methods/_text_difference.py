"""What the text changes in a prediction."""

from __future__ import annotations

import math

from torch import Tensor

from unmemorize.pipelines import Conditioning, Model, without_text

_PUBLISHED_SIZE = 4 * 64 * 64
"""Numbers in a latent of Stable Diffusion 1, to which published norms belong."""


def relative_size(latents: Tensor) -> float:
    """Return how norms of these latents (B, C, H, W) compare with those of Stable Diffusion 1."""
    return math.sqrt(latents[0].numel() / _PUBLISHED_SIZE)


def text_difference(
    model: Model,
    text: Conditioning,
    latents: Tensor,
    timestep: Tensor,
    *,
    gradient: bool = False,
) -> Tensor:
    """Predict with and without text, and subtract.

    For a model that predicts noise this is eps(x, y) - eps(x, ""). For others it is the same in the
    space of the clean image, see `Model.difference`.

    Args:
        model: the model.
        text: encoded prompts, one for each latent.
        latents: (B, C, H, W).
        timestep: one for all, ().
        gradient: whether to keep what a backward pass needs.

    Returns:
        float32 of shape (B, C, H, W).
    """
    both = without_text(model).take([0] * len(latents)).join(text)
    twice = latents.repeat(2, 1, 1, 1)
    prediction = model.predict(twice, timestep, both, gradient=gradient)
    without, with_prompt = model.difference(prediction, twice, timestep).chunk(2)
    return with_prompt - without
