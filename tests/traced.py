"""What detectors look at, computed with diffusers and plain loops alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray

Array = NDArray[np.float64]
SEED, GUIDANCE = 5, 3.0


def noise(count: int) -> torch.Tensor:
    return torch.randn((count, 4, 16, 16), generator=torch.Generator().manual_seed(SEED))


def outputs(pipe: DiffusionPipeline, text: str, latents: torch.Tensor, timestep: int) -> Any:
    """What the denoiser returns for each latent."""
    states, _ = pipe.encode_prompt(text, "cpu", 1, False)
    states = states.to(latents.dtype).expand(len(latents), -1, -1)
    return pipe.unet(latents, timestep, encoder_hidden_states=states).sample


@dataclass(frozen=True)
class Step:
    """One step of a guided run: timestep, sample, and predictions with text and without."""

    timestep: int
    sample: Array
    with_text: Array
    without: Array

    @property
    def change(self) -> Array:
        return self.with_text - self.without


def guided_run(pipe: DiffusionPipeline, text: str, steps: int, seeds: int = 2) -> list[Step]:
    """A run written out: predict twice, guide, take a DDIM step."""
    latents = noise(seeds)
    pipe.scheduler.set_timesteps(steps)
    run = []
    for timestep in pipe.scheduler.timesteps:
        with torch.no_grad():
            with_text = outputs(pipe, text, latents, int(timestep))
            without = outputs(pipe, "", latents, int(timestep))
        arrays = (value.double().numpy() for value in (latents, with_text, without))
        run.append(Step(int(timestep), *arrays))
        guided = without + GUIDANCE * (with_text - without)
        latents = pipe.scheduler.step(guided, timestep, latents).prev_sample
    return run


def norm(values: Array) -> float:
    return float(np.sqrt((values**2).sum()))


def variance(pipe: DiffusionPipeline, timestep: int) -> float:
    """1 - a, the variance of the noise."""
    return 1 - float(pipe.scheduler.alphas_cumprod[timestep])


def counted(pipe: DiffusionPipeline) -> list[int]:
    """The samples of each pass of the denoiser from now on."""
    sizes: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    return sizes


@contextmanager
def probabilities(pipe: DiffusionPipeline) -> Iterator[dict[str, Array]]:
    """What diffusers' slow processors compute as cross-attention: (B, pixels, tokens) by layer."""
    heads_mean: dict[str, Array] = {}
    pipe.unet.set_attn_processor(AttnProcessor())

    def watch(name: str, layer: Any) -> None:
        original = layer.get_attention_scores

        def scores(*args: Any) -> torch.Tensor:
            result: torch.Tensor = original(*args)
            rows = result.unflatten(0, (-1, layer.heads)).mean(1)
            heads_mean[name] = rows.double().numpy()
            return result

        layer.get_attention_scores = scores

    for name, module in pipe.unet.named_modules():
        if name.endswith("attn2"):
            watch(name, module)
    yield heads_mean
