"""Noise differences of several seeds: what the denoiser makes of a prompt in its first step.

Paper: section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor

from unmemorize._checked import Seed, check_fields
from unmemorize._errors import ModelError
from unmemorize.detection._similarity import SimilarityName
from unmemorize.pipelines import Conditioning, Guidance, Model

Protocol = Literal["published", "paper"]

_EVALUATED = {"published": 1, "paper": 0}
"""The index of the evaluated timestep."""
_MOST_SEEDS = 10_000
"""All pairs of seeds are compared, so more would not end."""


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """What determines the noise differences of a prompt.

    Calibration, detection and localization must share these settings.

    Args:
        seeds: initial noises per prompt, at least 2.
        seed: the seed of the one CPU generator that draws them all.
        steps: scheduler steps that are set. One of them is evaluated.
        protocol: which step is evaluated on the untouched noise: the second ("published", as the
            published code does) or the first ("paper").
        guidance: the scale of classifier-free guidance; 0 is none, as in the paper.
        similarity: how noise differences are compared: independently of other pairs ("fixed"), or
            as the published code does ("published"). Their values differ, so a threshold of one
            says nothing about the other.

    Raises:
        ModelError: a value is of another type or out of range.
    """

    seeds: int = 10
    seed: Seed = 1
    steps: int = 50
    protocol: Protocol = "published"
    guidance: Annotated[float, msgspec.Meta(gt=-1e6, lt=1e6)] = 0.0
    similarity: SimilarityName = "fixed"

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        if not self.seeds <= _MOST_SEEDS:
            raise ModelError(f"seeds={self.seeds}: at most {_MOST_SEEDS} are supported.")
        if self.seeds < 2:
            raise ModelError(f"seeds={self.seeds}: similarity between seeds needs at least 2.")
        if self.steps <= _EVALUATED[self.protocol]:
            raise ModelError(
                f"steps={self.steps}: too few for protocol {self.protocol}. "
                "Use 50, as the paper does."
            )

    @classmethod
    def published(cls) -> NoiseSettings:
        """Make the settings to which published thresholds belong, such as 0.428.

        Examples:
            >>> NoiseSettings.published().similarity
            'published'
        """
        return cls(protocol="published", similarity="published")

    @property
    def samples(self) -> int:
        """Denoiser samples that one evaluation of one seed costs."""
        return 2 if self.guidance else 1


@dataclass(frozen=True)
class Probe:
    """What one prompt is probed with, all on the model's device.

    Args:
        latents: initial noises, (seeds, C, H, W).
        timestep: the timestep that is evaluated, ().
        text: the encoded prompt, or one encoded prompt for each noise.
        guidance: classifier-free guidance, or None.
    """

    latents: Tensor
    timestep: Tensor
    text: Conditioning
    guidance: Guidance | None

    @property
    def samples(self) -> int:
        """Denoiser samples that one pass takes."""
        return len(self.latents) * (2 if self.guidance else 1)

    def of_seeds(self, seeds: Sequence[int]) -> Probe:
        """Take only some of the seeds."""
        return replace(self, latents=self.latents[list(seeds)])


def make_probe(model: Model, text: Conditioning, settings: NoiseSettings) -> Probe:
    """Make the probe for an encoded prompt."""
    return Probe(
        model.draw_latents(settings.seeds, settings.seed),
        evaluated_timestep(model, settings),
        text,
        model.guidance(settings.guidance),
    )


def evaluated_timestep(model: Model, settings: NoiseSettings) -> Tensor:
    """The one timestep at which the denoiser is evaluated, ()."""
    return model.timesteps(settings.steps)[evaluated_step(settings)]


def evaluated_step(settings: NoiseSettings) -> int:
    """The index of that timestep."""
    return _EVALUATED[settings.protocol]


def noise_differences(model: Model, probe: Probe, *, gradient: bool = False) -> Tensor:
    """Predicted minus initial noise, rescaled to [0, 1] per sample and channel (section 3.1).

    This takes one denoiser pass. For models that do not predict noise see `Model.difference`.

    Args:
        model: the model.
        probe: the prompt with its seeds.
        gradient: whether the result can be differentiated.

    Returns:
        float32 of shape (seeds, C, H, W).
    """
    count = len(probe.latents)
    text = probe.text if len(probe.text) == count else probe.text.take([0] * count)
    prediction = model.predict(
        probe.latents, probe.timestep, text, guidance=probe.guidance, gradient=gradient
    )
    return rescaled(model.difference(prediction, probe.latents, probe.timestep))


def rescaled(images: Tensor) -> Tensor:
    """Rescale each channel of each image (N, C, H, W) to [0, 1] by its minimum and maximum."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
