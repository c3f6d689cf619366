"""What a mitigation will cost, before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from unmemorize._prompts import Prompt
from unmemorize.detection import REGION_SAMPLES
from unmemorize.generation import has_closed_form
from unmemorize.methods import fine_tuning_cost, seconds_of_training, why_not_fine_tuned
from unmemorize.metrics import ClipAlignment, have_references
from unmemorize.mitigation._confirmation import warn_of_missing_images
from unmemorize.mitigation._ladders import FINE_TUNING, ladder_names
from unmemorize.mitigation._outcomes import CONTROL_SEEDS
from unmemorize.mitigation._paraphrases import PARAPHRASE_SEEDS
from unmemorize.mitigation._settings import MitigationSettings
from unmemorize.mitigation._starts import starts_of
from unmemorize.mitigation._trained import warn_of_no_fine_tuning
from unmemorize.pipelines import Model, seconds_of

_PNG_BYTES = 2.0
"""Bytes of a stored pixel: between a smooth photograph (1) and noise (3)."""
_PASSES = 2.5
"""Denoiser passes of a localization over all of its seeds, see docs/performance.md."""

_GUIDES = 5
"""How often as many images as in the search are drawn of the guides of a prompt, see
docs/mitigation.md."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The cost of a mitigation, if every suspect is memorized and each ladder ends at once.

    All ladders are counted, though the search ends where an edit changes few ordinary images.

    Args:
        images: stage -> images that are generated.
        samples: denoiser samples of these images (two for each step with guidance), of detections,
            those of guides included, localizations, trainings of the denoiser and maps of memorized
            regions.
        seconds: samples times the measured time of one, and the training of a text encoder, once.
        weights: bytes of the model's weights.
        disk: bytes of images, of an edited checkpoint and of small files.
    """

    images: Mapping[str, int]
    samples: int
    seconds: float
    weights: int
    disk: int


def forecast(
    model: Model,
    settings: MitigationSettings,
    suspects: Sequence[Prompt],
    clip: ClipAlignment | None = None,
) -> Forecast:
    """Count what a mitigation takes, and time one pass of the denoiser.

    A prompt that has to climb takes a few images more for each rung. One that is not memorized
    takes none after its confirmation.

    Args:
        model: the model.
        settings: of the mitigation.
        suspects: the prompts. Where one has no training image, copies are told by how much images
            agree, and the level of that takes more ordinary images.
        clip: as in `MitigationInputs`. Distances between distributions take more ordinary images.
    """
    warn_of_missing_images(suspects)
    warn_of_no_fine_tuning(model, settings)
    count = len(suspects)
    guided = suspects if has_closed_form(model) else ()
    starts = [starts_of(each.text) for each in guided]
    rules = settings.certification(count)
    ordinary = settings.ordinary_images
    twice = (settings.distances and clip is not None) or not have_references(suspects)
    encoder = settings.part == "text-encoder"
    fine_tuned = bool(guided) and not why_not_fine_tuned(model)
    names = [name for name in ladder_names(settings.part) if fine_tuned or name != FINE_TUNING]
    ladders = len(names) if settings.compare else 1
    images = {
        "ordinary images, unedited": ordinary * (2 if twice else 1),
        "confirmation": settings.search_images * count,
        "guides of prompts": min(settings.guides, _GUIDES) * settings.search_images * len(guided),
        "search": ladders * settings.search_images * count,
        "side effects of candidates": (ladders - 1) * settings.sample,
        "certificate": rules.plan(1).seeds * count,
        "ordinary images, edited": ordinary,
        "paraphrases": 2 * PARAPHRASE_SEEDS * sum(len(each.paraphrases) for each in suspects),
    }
    controls = 0 if encoder else CONTROL_SEEDS * count  # of an edit of neurons
    if not encoder:
        images["random neurons"] = controls + settings.sample
    trainings = 0
    if ladders > 1 and fine_tuned:
        images["fine-tuning"], trainings = fine_tuning_cost(count)
    generation, noise = settings.generation, settings.localization.noise
    halves = 2 if generation.guidance > 1 else 1
    samples = sum(images.values()) * generation.steps * halves + trainings
    samples += round((1 + _PASSES) * noise.seeds * count)
    samples += noise.seeds * (sum(map(len, starts)) + 2 * settings.guides * len(guided))
    samples += REGION_SAMPLES * count
    weights = sum(
        parameter.numel() * parameter.element_size()
        for component in model.pipe.components.values()
        if isinstance(component, torch.nn.Module)
        for parameter in component.parameters()
    )
    kept = (1 + ladders) * settings.search_images * count + controls
    pixels = model.pipe.vae_scale_factor**2 * model.latent_shape[1] * model.latent_shape[2]
    trained = seconds_of_training(model, count) if encoder else 0.0
    return Forecast(
        images=images,
        samples=samples,
        seconds=samples * seconds_per_sample(model, generation.batch) + trained,
        weights=weights,
        disk=round(kept * pixels * _PNG_BYTES) + weights,
    )


def seconds_per_sample(model: Model, batch: int) -> float:
    """Time a denoiser sample in a batch: the second of two passes, since the first one prepares."""
    latents = model.draw_latents(batch, 0)
    text = model.encode(["a photograph"] * batch)
    timestep = model.timesteps(50)[1]
    return seconds_of(model, lambda: model.predict(latents, timestep, text)) / batch
