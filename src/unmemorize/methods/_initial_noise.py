"""Han's change of the initial noise: out of the basin that leads to the copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unmemorize.generation import Drawing, Plan
from unmemorize.methods._delayed_guidance import PUBLISHED, delayed
from unmemorize.methods._guidance import OtherGuidance
from unmemorize.methods._method import WhileDrawing
from unmemorize.methods._text_difference import relative_size, text_difference
from unmemorize.pipelines import Conditioning, Model

RADIUS, _ROUNDS = 50.0, 2
"""Published: the length of the step to the neighbour for latents of 4 x 64 x 64, and rounds."""
_RATE, _ITERATIONS = 0.01, 1000


@dataclass(frozen=True)
class FlattenedNoise(OtherGuidance):
    """Moves the initial noise to where the pull of the text changes less, without gradients.

    With d(x) the difference between the predictions with and without text at the first timestep,
    twice: x becomes x - strength (d(x + r d / |d|) - d(x)). The radius r is 50 for latents of
    4 x 64 x 64, and multiplied by the square root of the ratio of sizes for others. The norm is
    that of one image, so no image depends on its batch. Then the first steps are drawn without
    text, as in `DelayedGuidance`, which is the control of this method.

    Args:
        strength: the size of the step. Published: .7.

    Source: Han et al., NeurIPS 2025, batch-wise adjustment.

    Examples:
        >>> FlattenedNoise().strength
        0.7
    """

    kind: ClassVar[str] = "noise-batch"
    grid: ClassVar[tuple[float, ...]] = (0.35, 0.7, 1.4)

    strength: float = 0.7

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """Move the noise, see `Intervention`."""
        self.check(model)
        timestep = model.timesteps(drawing.steps)[0]
        text = model.encode(drawing.prompts)
        noise = drawing.noise
        radius = RADIUS * relative_size(noise)
        for _ in range(_ROUNDS):
            here = text_difference(model, text, noise, timestep)
            away = radius * here / here.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            there = text_difference(model, text, noise + away.to(noise), timestep)
            noise = noise - (self.strength * (there - here)).to(noise)
        return Plan(noise, delayed(model, drawing, self.kind, PUBLISHED))


@dataclass(frozen=True)
class OptimizedNoise(WhileDrawing):
    """Optimizes the initial noise of each image until the text pulls less.

    AdamW (rate .01) on the noise, at most 1,000 steps, until the norm of the difference between the
    predictions with and without text at the first timestep is at most ``strength``.

    Args:
        strength: the target norm for latents of 4 x 64 x 64, multiplied by the square root of the
            ratio of sizes for others. Lower is stronger. Published: .9, from a grid of .7 to 1.5
            (5 to 20 for Stable Diffusion 2).

    Source: Han et al., NeurIPS 2025, per-sample adjustment.

    Examples:
        >>> OptimizedNoise().strength
        0.9
    """

    kind: ClassVar[str] = "noise-sample"
    grid: ClassVar[tuple[float, ...]] = (1.5, 1.3, 1.1, 0.9, 0.7)

    strength: float = 0.9

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """Optimize the noise, see `Intervention`."""
        target = self.strength * relative_size(drawing.noise)
        timestep = model.timesteps(drawing.steps)[0]
        text = model.encode(drawing.prompts)
        return Plan(optimized_noise(model, text, drawing.noise, timestep, target))


def optimized_noise(
    model: Model,
    text: Conditioning,
    noise: Tensor,
    timestep: Tensor,
    target: float,
) -> Tensor:
    """Optimize noise (images, C, H, W), each image until its own norm is at most the target."""
    images = [image.float().clone().requires_grad_() for image in noise]
    optimizer = torch.optim.AdamW(images, lr=_RATE)
    active = list(range(len(images)))
    for _ in range(_ITERATIONS):
        latents = torch.stack([images[index] for index in active])
        with torch.enable_grad():
            difference = text_difference(
                model, text.take(active), latents.to(noise.dtype), timestep, gradient=True
            )
            norms = difference.flatten(1).norm(dim=1)
        remaining = [row for row, norm in enumerate(norms.tolist()) if norm > target]
        active = [active[row] for row in remaining]
        if not active:
            break
        # not backward(), which would leave gradients on the weights of the model
        gradients = torch.autograd.grad(norms[remaining].sum(), [images[index] for index in active])
        for index, image in enumerate(images):
            image.grad = gradients[active.index(index)] if index in active else None
        optimizer.step()
    return torch.stack([image.detach() for image in images])
