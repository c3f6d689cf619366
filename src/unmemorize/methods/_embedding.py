"""Wen's optimization of the prompt's embedding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unmemorize.generation import Drawing, Plan
from unmemorize.methods._embeddings import with_texts
from unmemorize.methods._method import WhileDrawing
from unmemorize.methods._text_difference import relative_size, text_difference
from unmemorize.pipelines import Conditioning, Model

_RATE, _ITERATIONS = 0.05, 10


@dataclass(frozen=True)
class OptimizedEmbedding(WhileDrawing):
    """Optimizes the text embedding until the text changes the first prediction less.

    AdamW (rate .05) on the embedding of each image, at most 10 steps, until the norm of the
    difference between the predictions with and without text at the first timestep is at most
    ``strength``. The published code takes one norm over the batch of a prompt's images, which for m
    images of equal differences is sqrt(m) times the norm of one. Here each image has its own
    embedding and norm, so no image depends on its batch. That is the published method with one
    image per prompt. The first token is left out of the optimization, so weight decay does not move
    it either. Norms of v and flow models are those in the space of the clean image.

    Args:
        strength: the target norm, a positive number for latents of 4 x 64 x 64. It is multiplied by
            the square root of the ratio of sizes for others. Lower is stronger. Published: 3 to 7
            for Stable Diffusion 1 (50 to 90 for 2).

    Source: Wen et al., ICLR 2024, section 4.

    Examples:
        >>> OptimizedEmbedding().strength
        3.0
    """

    kind: ClassVar[str] = "embedding"
    grid: ClassVar[tuple[float, ...]] = (7.0, 6.0, 5.0, 4.0, 3.0)

    strength: float = 3.0

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """Optimize the embeddings, see `Intervention`."""
        text = model.encode(drawing.prompts)
        target = self.strength * relative_size(drawing.noise)
        timestep = model.timesteps(drawing.steps)[0]
        embeddings = optimized(model, text, drawing.noise, timestep, target)
        return Plan(drawing.noise, with_texts(model, drawing, embeddings))


def optimized(
    model: Model, text: Conditioning, latents: Tensor, timestep: Tensor, target: float
) -> Tensor:
    """Optimize the embeddings of texts, each for its own image.

    Args:
        model: the model.
        text: encoded prompts, one for each image.
        latents: noise (images, C, H, W).
        timestep: where the norm is taken, ().
        target: the norm at which an image is done.

    Returns:
        The embeddings, (images, tokens, features), in the type of ``text``.
    """
    first = text.text[:, :1]
    words = [row[1:].float().clone().requires_grad_() for row in text.text]
    optimizer = torch.optim.AdamW(words, lr=_RATE)
    active = list(range(len(words)))
    for _ in range(_ITERATIONS):
        with torch.enable_grad():
            whole = torch.cat([first[active], _stacked(words, active).to(first.dtype)], dim=1)
            difference = text_difference(
                model,
                text.take(active).with_text(whole),
                latents[active],
                timestep,
                gradient=True,
            )
            norms = difference.flatten(1).norm(dim=1)
        remaining = [row for row, norm in enumerate(norms.tolist()) if norm > target]
        active = [active[row] for row in remaining]
        if not active:
            break
        # not backward(), which would leave gradients on the weights of the model
        gradients = torch.autograd.grad(norms[remaining].sum(), [words[index] for index in active])
        for index, word in enumerate(words):
            word.grad = gradients[active.index(index)] if index in active else None
        optimizer.step()
    done = _stacked([word.detach() for word in words], range(len(words)))
    return torch.cat([first, done.to(first.dtype)], dim=1)


def _stacked(words: Sequence[Tensor], indices: Iterable[int]) -> Tensor:
    return torch.stack([words[index] for index in indices])
