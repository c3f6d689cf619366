"""Step 4: images of a prompt with given neurons off, the same for the same seeds whatever the batch size."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from unmemorize._errors import ModelError
from unmemorize._progress import Progress, silent
from unmemorize.neurons import Neurons, scaled
from unmemorize.pipelines import Model, run, sampler, sampling


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How images are generated; the defaults are the paper's (section 4).

    Args:
        images: per prompt.
        seed: of the one CPU generator that draws the initial noise of a prompt; never the seed of localization.
        steps: of DDIM.
        guidance: classifier-free guidance.
        scale: what switched-off outputs are multiplied by.
        batch: images per pass; it changes no image beyond rounding.
    """

    images: int = 10
    seed: int = 2
    steps: int = 50
    guidance: float = 7.0
    scale: float = 0.0
    batch: int = 10

    def __post_init__(self) -> None:
        for name in ("images", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name}={getattr(self, name)}: at least 1 is needed.")


def generate(
    pipe: DiffusionPipeline | Model,
    prompt: str,
    neurons: Neurons | None = None,
    *,
    settings: GenerationSettings | None = None,
) -> list[Image.Image]:
    """Generate images of a prompt, with neurons switched off.

    Args:
        pipe: a loaded pipeline; its scheduler is put aside for DDIM meanwhile (not for flow matching), its safety checker altogether.
        prompt: the prompt.
        neurons: what is off; by default nothing.
        settings: how to generate.

    Returns:
        ``settings.images`` RGB images; image i comes from row i of the initial noise.

    Raises:
        NeuronError: the neurons do not exist in this model.
        ModelError: the images hold NaN, or there are more steps than the model has timesteps.
    """
    settings = settings or GenerationSettings()
    return generate_each(Model.of(pipe), [prompt], [neurons or Neurons()], settings=settings)[0]


def generate_each(
    model: Model,
    prompts: Sequence[str],
    neurons: Sequence[Neurons],
    *,
    settings: GenerationSettings,
    progress: Progress = silent,
) -> list[list[Image.Image]]:
    """`generate` for several prompts at once, each with its own neurons off; batches go across prompts.

    All prompts start from the same initial noise. ``progress`` is called with denoising steps times images, after each step where the
    pipeline tells of its steps. Returns a list of images for each prompt.
    """
    trained = int(sampler(model.pipe).config.num_train_timesteps)
    if settings.steps > trained:
        raise ModelError(
            f"steps={settings.steps}: {model.name} was trained with {trained} timesteps. Use fewer, such as 50."
        )
    latents = model.draw_latents(settings.images, settings.seed)
    samples = [(place, seed) for place in range(len(prompts)) for seed in range(settings.images)]
    images: list[list[Image.Image]] = [[] for _ in prompts]
    done, total = 0, len(samples) * settings.steps

    def stepped(
        _pipe: object, step: int, _timestep: object, values: dict[str, Any]
    ) -> dict[str, Any]:
        progress(done + (step + 1) * len(places), total)
        return values

    with sampling(model.pipe), _unchecked(model.pipe):
        for start in range(0, len(samples), settings.batch):
            places, seeds = zip(*samples[start : start + settings.batch], strict=True)
            with scaled(model, [neurons[place] for place in places], settings.scale):
                output = _from_noise(
                    model.pipe,
                    [prompts[place] for place in places],
                    model.to_denoiser(latents[list(seeds)]),
                    num_inference_steps=settings.steps,
                    guidance_scale=settings.guidance,
                    output_type="np",
                    callback_on_step_end=stepped,
                ).images
            done += settings.steps * len(places)
            progress(done, total)
            for place, array in zip(places, output, strict=True):
                if not np.isfinite(array).all():
                    raise ModelError(
                        f"{model.name}: an image of {prompts[place][:60]!r} holds NaN. Load the model with --dtype float32."
                    )
                images[place].append(Image.fromarray((array * 255).round().astype(np.uint8)))
    return images


@contextmanager
def _unchecked(pipe: Any) -> Iterator[None]:
    """No safety checker: the black images that it puts in place of others would count as no copies."""
    checker, registered = getattr(pipe, "safety_checker", None), pipe.config.get("safety_checker")
    if checker is not None:
        pipe.safety_checker = None
    try:
        yield
    finally:
        if checker is not None:
            pipe.safety_checker = checker
            pipe.register_to_config(
                safety_checker=registered
            )  # diffusers forgets it when the checker is taken away


def _from_noise(pipe: Any, prompts: Sequence[str], latents: Tensor, **options: Any) -> Any:
    """The pipeline's output for this initial noise."""
    if "latents" in inspect.signature(type(pipe).__call__).parameters:
        return run(pipe, prompts, latents=latents, **options)
    pipe.prepare_intermediate_images = lambda *_, **__: (
        latents
    )  # DeepFloyd IF takes no noise from outside
    try:
        return run(pipe, prompts, **options)
    finally:
        del pipe.prepare_intermediate_images
