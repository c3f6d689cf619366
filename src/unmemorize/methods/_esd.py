"""Erased Stable Diffusion: the prompt is trained to lead away from itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unmemorize._checked import check_fields
from unmemorize._errors import MitigationError
from unmemorize._prompts import Prompt
from unmemorize.generation import (
    Drawing,
    DrawingCall,
    WeightEdit,
    drawn_latents,
    text_projections,
    watching,
)
from unmemorize.methods._latents import encoded_images
from unmemorize.methods._method import Suspect, refuse_outside
from unmemorize.methods._training import training
from unmemorize.pipelines import Model, without_text

_ETA, _STEPS, _GUIDANCE = 2.0, 50, 3.0
"""Published: strength of the negative guidance, steps and guidance of samples."""
_SEED = 3


@dataclass(frozen=True)
class Esd:
    """Trains key and value projections so that the prompt predicts away from the prompt.

    With e the frozen model, c the prompt and o no text, the loss is the mean squared error between
    the trained prediction with c and e(c) - 2 (e(c) - e(o)). Adam, one sample per step.
    Samples are training images with noise of a random one of 50 timesteps, as the authors advise
    for single images. Without training images, they are latents of images that the frozen model
    draws with guidance 3, at a random step.

    Args:
        strength: the number of training steps, a whole number. Published: 200.
        rate: the learning rate. Published: 5e-5.

    Source: Gandikota et al., ICCV 2023 (ESD-x, keys and values only).

    Examples:
        >>> Esd().strength
        200.0
    """

    name: ClassVar[str] = "esd"
    grid: ClassVar[tuple[float, ...]] = (50.0, 100.0, 200.0, 400.0)

    strength: float = 200.0
    rate: float = 5e-5

    def __post_init__(self) -> None:
        check_fields(self, MitigationError)
        refuse_outside(self.name, self.strength, 1, whole=True)

    @torch.inference_mode(False)  # the caller may have switched gradients off
    def fit(self, model: Model, suspect: Suspect) -> WeightEdit:
        """See `Mitigation`. With training images it is faster.

        Raises:
            EditError: the model's projections do not all read one text stream.
            MitigationError: the model cannot be trained.
        """
        layers = text_projections(model)
        steps = int(self.strength)
        generator = torch.Generator().manual_seed(_SEED)
        with training(model, layers, self.name) as weights:
            samples, timesteps = _samples(model, suspect.prompt, steps, generator)
            text, nothing = model.encode([suspect.prompt.text]), without_text(model)
            targets = []
            for start in range(0, steps, suspect.settings.batch):
                some = slice(start, start + suspect.settings.batch)
                same = [0] * len(samples[some])
                with_prompt, without = (
                    model.predict(samples[some], timesteps[some], each.take(same))
                    for each in (text, nothing)
                )
                targets.append(with_prompt - _ETA * (with_prompt - without))
            optimizer = torch.optim.Adam(weights.values(), lr=self.rate)
            for sample, timestep, target in zip(
                samples.split(1), timesteps, torch.cat(targets).split(1), strict=True
            ):
                prediction = model.predict(sample, timestep, text, gradient=True)
                gradients = weights.gradients((prediction - target).square().mean())
                for value, gradient in zip(weights.values(), gradients, strict=True):
                    value.grad = gradient
                optimizer.step()
            return weights.edit(self.name)


def _samples(
    model: Model, prompt: Prompt, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return noisy latents (count, C, H, W), and the timestep of each, (count,)."""
    times = model.timesteps(_STEPS)
    chosen = torch.randint(len(times), (count,), generator=generator).tolist()
    timesteps = torch.stack([times[index] for index in chosen])
    if prompt.images:
        clean = encoded_images(model, prompt.images, Esd.name)
        noise = torch.randn((count, *clean.shape[1:]), generator=generator, dtype=torch.float32).to(
            clean
        )
        noisy = [
            model.noise_level(timesteps[index]).noisy(clean[[index % len(clean)]], noise[[index]])
            for index in range(count)
        ]
        return torch.cat(noisy), timesteps
    courses = [_course(model, prompt.text, seed) for seed in range(_SEED, _SEED + 4)]
    drawn = torch.randint(len(courses), (count,), generator=generator).tolist()
    return torch.stack(
        [courses[course][step] for course, step in zip(drawn, chosen, strict=True)]
    ), timesteps


def _course(model: Model, prompt: str, seed: int) -> list[Tensor]:
    """Draw an image and return its latents (C, H, W) in front of each step."""
    latents: list[Tensor] = []
    noise = model.draw_latents(1, seed)
    drawing = Drawing((prompt,), noise, (True,), _STEPS, _GUIDANCE)

    def reads(call: DrawingCall) -> None:
        latents.append(call.sample[call.rows[0]].clone())

    with watching(model, drawing, reads):
        drawn_latents(model, drawing)
    return latents
