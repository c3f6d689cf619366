"""Drawings of tiny pipelines, once under an intervention and once by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from unmemorize import Intervention, Model
from unmemorize.generation import Drawing, drawn_latents

PROMPTS = ("a cat", "zebra")
GUIDANCE = 3.0
Guided = Callable[[Tensor, Tensor, int], Tensor]
"""(latents, timestep, step) -> the prediction that the sampler follows."""


def a_drawing(
    model: Model, prompts: Sequence[str] = PROMPTS, steps: int = 4, guidance: float = GUIDANCE
) -> Drawing:
    """Images of prompts from unequal noise."""
    noise = model.draw_latents(len(prompts), 5)
    return Drawing(tuple(prompts), noise, (True,) * len(prompts), steps, guidance)


def drawn(model: Model, intervention: Intervention, drawing: Drawing) -> Tensor:
    """Latents at the end of the run of the pipeline itself."""
    plan = intervention.plan(model, drawing)
    with plan.context:
        return drawn_latents(model, replace(drawing, noise=plan.noise))


def by_hand(pipe: Any, noise: Tensor, steps: int, guided: Guided) -> Tensor:
    """The same by a loop of DDIM."""
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    latents = noise
    for step, timestep in enumerate(scheduler.timesteps):
        latents = scheduler.step(guided(latents, timestep, step), timestep, latents).prev_sample
    return latents


@torch.no_grad()
def predicted(pipe: Any, latents: Tensor, timestep: Tensor, text: Tensor, **options: Any) -> Tensor:
    """The U-Net's own prediction for text (B, tokens, features)."""
    output: Tensor = pipe.unet(latents, timestep, encoder_hidden_states=text, **options).sample
    return output


def texts(pipe: Any, prompts: Sequence[str]) -> Tensor:
    """Text embeddings (prompts, tokens, features) of Stable Diffusion, straight from its parts."""
    length = pipe.tokenizer.model_max_length
    ids = pipe.tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        embeddings: Tensor = pipe.text_encoder(ids)[0]
    return embeddings


def state_of(pipe: Any) -> tuple[object, ...]:
    """Everything that a method might leave on a pipeline."""
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    modules = list(denoiser.modules())
    hooks = [
        (len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in vars(module))
        for module in modules
    ]
    weights = [
        (float(value.double().sum()), value.requires_grad, value.grad is None)
        for value in denoiser.parameters()
    ]
    components = [id(component) for component in pipe.components.values()]
    return hooks, weights, components, id(pipe.scheduler), type(pipe.scheduler)
