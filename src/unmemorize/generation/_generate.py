"""Step 4: images of prompts with edits applied, the same for the same seeds at any batch size."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unmemorize._bundled import usual_for
from unmemorize._checked import Seed, check_fields
from unmemorize._errors import ModelError
from unmemorize._files import refuse_other_type
from unmemorize._prompts import Prompt, as_prompt
from unmemorize.engines import Progress, silent
from unmemorize.generation._edit_file import EditFile, as_change
from unmemorize.generation._interventions import Change, Drawing, applied
from unmemorize.neurons import HasNeurons, Neurons, check_scale
from unmemorize.pipelines import Model, decoding, run, sampler, sampling, without_progress_bar


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How images are generated. The defaults are the paper's (section 4).

    Args:
        images: number of images per prompt.
        seed: seed of the CPU generator that draws the initial noise of all images of a prompt.
            Must differ from the seed of localization.
        steps: number of denoising steps.
        guidance: scale of classifier-free guidance.
        scale: what the outputs of switched-off neurons are multiplied by, in (-1e6, 1e6).
        batch: images per pass. It changes no image beyond rounding.

    Raises:
        ModelError: a value is of another type or out of range.
        NeuronError: the scale is out of its range.
    """

    images: int = 10
    seed: Seed = 2
    steps: int = 50
    guidance: float = 7.0
    scale: float = 0.0
    batch: int = 10

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        check_scale(self.scale)
        for name in ("images", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name}={getattr(self, name)}: at least 1 is needed.")


def usual_generation(model: Model) -> GenerationSettings:
    """Make the settings that are used where none are given; the bundled model has its own."""
    return GenerationSettings(**usual_for(model.pipe, "steps", "guidance"))


def generate(
    pipe: DiffusionPipeline | Model,
    prompt: str | Prompt,
    neurons: Neurons | HasNeurons | Change | EditFile | None = None,
    *,
    settings: GenerationSettings | None = None,
) -> list[Image.Image]:
    """Generate images of a prompt with neurons switched off, or under another edit or intervention.

    While it runs, the pipeline's scheduler is replaced by DDIM (not for flow matching), its safety
    checker is off, and its progress bar is hidden.

    Args:
        pipe: a loaded pipeline.
        prompt: the prompt.
        neurons: neurons to switch off, also as a localization, at ``settings.scale``; an edit or
            the file of one, which have a scale of their own; or an intervention. By default nothing
            is changed.
        settings: how to generate. By default the paper's way, and on the bundled model with its own
            steps and guidance.

    Returns:
        ``settings.images`` RGB images. Image i starts from row i of the initial noise.

    Raises:
        PromptError: the prompt is empty or neither a text nor a `Prompt`.
        NeuronError, EditError: the neurons do not exist in this model, or a file belongs to another
            one.
        ModelError: an image holds NaN, or there are more steps than the model has timesteps.

    Source: section 4 of the paper.

    Examples:
        >>> from unmemorize import load_pipeline
        >>> pipe = load_pipeline("testbed")
        >>> settings = GenerationSettings(images=2, steps=2)
        >>> [image.size for image in generate(pipe, "a cat", settings=settings)]
        [(64, 64), (64, 64)]
    """
    model, text = Model.of(pipe), as_prompt(prompt).text
    if settings is None:
        settings = usual_generation(model)
    refuse_other_type(
        "settings", settings, GenerationSettings, ModelError, "Give GenerationSettings(...)."
    )
    edit = None if neurons is None else as_change(neurons, model, scale=settings.scale)
    return generate_each(model, [text], [edit], settings=settings)[0]


@torch.inference_mode(False)  # some interventions differentiate, whatever mode the caller is in
def generate_each(
    model: Model,
    prompts: Sequence[str],
    edits: Sequence[Change | None],
    *,
    settings: GenerationSettings,
    seeds: Sequence[int] | None = None,
    noise: Sequence[Tensor] | None = None,
    scheduler: Any = None,
    progress: Progress = silent,
) -> list[list[Image.Image]]:
    """Generate images of several prompts, each with its own edit, in batches across prompts.

    Args:
        model: the model.
        prompts: the prompts.
        edits: an edit or an intervention for each prompt. None changes nothing.
        settings: how to generate. Its ``scale`` does not apply: an edit has its own.
        seeds: for each prompt the seed of its initial noise. By default all prompts start from the
            noise of ``settings.seed``.
        noise: for each prompt the initial noise itself, (``settings.images``, C, H, W), in place of
            what seeds draw.
        scheduler: a scheduler of diffusers in place of the usual one.
        progress: called with denoising steps times images, after each step where the pipeline
            reports its steps, and else after each batch.

    Returns:
        A list of images for each prompt.

    Raises:
        NeuronError: an edit has neurons that do not exist in this model.
        ModelError: an image holds NaN, or there are more steps than the model has timesteps.
        MitigationError: an intervention is not possible with this model.
    """
    if not prompts:
        return []
    _refuse_too_many_steps(model, settings.steps)
    seeds = [settings.seed] * len(prompts) if seeds is None else seeds
    prompts = [
        _rewritten(model, edit, prompt, seed)
        for prompt, edit, seed in zip(prompts, edits, seeds, strict=True)
    ]
    model.warn_of_truncation(prompts)
    if noise is None:
        unique = list(dict.fromkeys(seeds))
        latents = model.draw_latents(settings.images, *unique)
        drawn = dict(zip(unique, latents.split(settings.images), strict=True))
        noise = [drawn[seed] for seed in seeds]
    samples = [(index, row) for index in range(len(prompts)) for row in range(settings.images)]
    images: list[list[Image.Image]] = [[] for _ in prompts]
    done, total = 0, len(samples) * settings.steps
    with sampling(model.pipe, scheduler), _without_safety_checker(model.pipe):
        for batch in _batches(samples, settings.batch, apart=model.layout.separate):
            indices = [index for index, _ in batch]
            texts = [prompts[index] for index in indices]
            start_noise = torch.stack([noise[index][row] for index, row in batch])
            with (
                decoding(model, len(batch)),
                applied(
                    model,
                    [edits[index] for index in indices],
                    texts,
                    start_noise,
                    steps=settings.steps,
                    guidance=settings.guidance,
                ) as start,
            ):
                pixels = _denoise(
                    model,
                    texts,
                    start,
                    settings,
                    _batch_progress(progress, done, len(batch), total),
                )
            done += settings.steps * len(batch)
            progress(done, total)
            for index, array in zip(indices, pixels, strict=True):
                images[index].append(_to_image(array, model, prompts[index]))
    return images


def drawn_latents(model: Model, drawing: Drawing) -> Tensor:
    """Draw images that are a batch of their own, and return them as the denoiser leaves them.

    What follows the denoiser, such as the decoder, does not run where the pipeline can do without.

    Returns:
        What the pipeline returns for the output type "latent", such as (images, C, H, W).
    """
    with sampling(model.pipe), _without_safety_checker(model.pipe):
        output = _run_from_noise(
            model.pipe,
            drawing.prompts,
            drawing.guidance,
            model.to_denoiser(drawing.noise),
            num_inference_steps=drawing.steps,
            output_type="latent",
        )
    return torch.as_tensor(output.images)


def _rewritten(model: Model, change: Change | None, prompt: str, seed: int) -> str:
    rewritten = getattr(change, "rewritten", None)
    return prompt if rewritten is None else str(rewritten(model, prompt, seed))


def _batches(
    samples: Sequence[tuple[int, int]], size: int, *, apart: bool
) -> Iterator[Sequence[tuple[int, int]]]:
    """Yield batches of (prompt, seed), in order; with ``apart``, those of one prompt only."""
    groups = groupby(samples, lambda sample: sample[0] if apart else 0)
    for _, group in groups:
        some = list(group)
        for start in range(0, len(some), size):
            yield some[start : start + size]


def _refuse_too_many_steps(model: Model, steps: int) -> None:
    scheduler = sampler(model.pipe)
    timesteps = int(scheduler.config.num_train_timesteps)
    beyond = steps > timesteps
    if not beyond and isinstance(scheduler, DDIMScheduler):
        scheduler.set_timesteps(steps)  # counts from steps_offset
        beyond = int(scheduler.timesteps[0]) >= timesteps
    if beyond:
        raise ModelError(
            f"steps={steps}: {model.name} was trained with {timesteps} timesteps. "
            "Use fewer steps, such as 50."
        )


def _denoise(
    model: Model,
    prompts: Sequence[str],
    noise: Tensor,
    settings: GenerationSettings,
    progress: Progress,
) -> NDArray[np.floating[Any]]:
    """Run the pipeline on initial noise (B, ...). Returns images (B, H, W, 3) in [0, 1]."""

    def stepped(_pipe: object, step: int, _time: object, values: dict[str, Any]) -> dict[str, Any]:
        progress(step + 1, settings.steps)
        return values

    output = _run_from_noise(
        model.pipe,
        prompts,
        settings.guidance,
        model.to_denoiser(noise),
        num_inference_steps=settings.steps,
        output_type="np",
        callback_on_step_end=stepped,
    )
    pixels: NDArray[np.floating[Any]] = output.images
    return pixels


def _batch_progress(progress: Progress, done: int, images: int, total: int) -> Progress:
    """Report steps of one batch as steps of all batches, times images."""
    return lambda step, _steps: progress(done + step * images, total)


def _to_image(pixels: NDArray[np.floating[Any]], model: Model, prompt: str) -> Image.Image:
    if not np.isfinite(pixels).all():
        raise ModelError(f"{model.name}: an image of {prompt[:60]!r} holds NaN. {model.remedy}")
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


@contextmanager
def _without_safety_checker(pipe: Any) -> Iterator[None]:
    """Take the safety checker off: the black images that it returns would not count as copies."""
    checker = getattr(pipe, "safety_checker", None)
    registered = pipe.config.get("safety_checker")
    if checker is None:
        yield
        return
    pipe.safety_checker = None
    try:
        yield
    finally:
        pipe.safety_checker = checker
        # diffusers forgets the class of a component that was None for a while
        pipe.register_to_config(safety_checker=registered)


def _run_from_noise(
    pipe: Any, prompts: Sequence[str], guidance: float, latents: Tensor, **options: Any
) -> Any:
    """Call the pipeline with this initial noise, without its progress bar."""
    with without_progress_bar(pipe):
        if "latents" in inspect.signature(type(pipe).__call__).parameters:
            return run(pipe, prompts, guidance, latents=latents, **options)
        # DeepFloyd IF takes no initial noise as an argument
        pipe.prepare_intermediate_images = lambda *_, **__: latents
        try:
            return run(pipe, prompts, guidance, **options)
        finally:
            del pipe.prepare_intermediate_images
