"""Noise differences of several seeds: what the denoiser makes of a prompt in its first step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from unmemorize._errors import ModelError
from unmemorize.pipelines import Conditioning, Model

Protocol = Literal["upstream", "paper"]


_EVALUATED = {"upstream": 1, "paper": 0}


@dataclass(frozen=True, kw_only=True)
class NoiseSettings:
    """What determines the noise differences of a prompt; calibration, detection and localization must share it.

    Args:
        seeds: initial noises per prompt, at least 2.
        seed: of the one CPU generator that draws them all.
        steps: scheduler steps that are set; one of them is evaluated.
        protocol: "upstream" evaluates the second timestep on the untouched noise, as the published code does; "paper" the first.
        guidance: classifier-free guidance; 0 is none, as in the paper.
    """

    seeds: int = 10
    seed: int = 1
    steps: int = 50
    protocol: Protocol = "upstream"
    guidance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("seeds", "seed", "steps"):
            if type(getattr(self, name)) is not int:
                raise ModelError(f"{name}={getattr(self, name)!r:.60}: must be a whole number.")
        if type(self.guidance) not in (int, float) or not abs(self.guidance) < 1e6:
            raise ModelError(f"guidance={self.guidance!r:.60}: must be a number.")
        if self.seeds < 2:
            raise ModelError(f"seeds={self.seeds}: similarity between seeds needs at least 2.")
        if self.protocol not in _EVALUATED:
            raise ModelError(f"protocol {self.protocol!r}: unknown. Use upstream or paper.")
        if self.steps <= _EVALUATED[self.protocol]:
            raise ModelError(
                f"steps={self.steps}: too few for protocol {self.protocol}. Use 50, as the paper does."
            )

    @property
    def samples(self) -> int:
        """Denoiser samples that one evaluation of one seed costs."""
        return 2 if self.guidance else 1


@dataclass(frozen=True)
class Probe:
    """What one prompt is probed with: initial noises, timestep and text, all on the model's device."""

    latents: Tensor  # (seeds, C, H, W)
    timestep: Tensor
    text: Conditioning  # of the one prompt, or of one for each noise
    empty: Conditioning | None
    """What guidance sets against the prompt; None without."""

    def keep(self, seeds: list[int]) -> Probe:
        """The same with only some of the seeds."""
        return replace(self, latents=self.latents[seeds])


def make_probe(model: Model, text: Conditioning, settings: NoiseSettings) -> Probe:
    """The probe for an encoded prompt."""
    empty = model.encode_empty() if settings.guidance else None
    return Probe(
        model.draw_latents(settings.seeds, settings.seed),
        evaluated_timestep(model, settings),
        text,
        empty,
    )


def evaluated_timestep(model: Model, settings: NoiseSettings) -> Tensor:
    """The one timestep at which the denoiser is looked at, ()."""
    return model.timesteps(settings.steps)[_EVALUATED[settings.protocol]]


def noise_differences(
    model: Model, probe: Probe, guidance: float = 0.0, *, gradient: bool = False
) -> Tensor:
    """Predicted minus initial noise, rescaled to [0, 1] per sample and channel, float32 of shape (seeds, C, H, W); one denoiser pass.

    For models that do not predict noise see `Model.difference`. With ``gradient`` it can be differentiated.
    """
    count = len(probe.latents)
    text = probe.text if len(probe.text) == count else probe.text.take([0] * count)
    if probe.empty is None:
        prediction = model.predict(probe.latents, probe.timestep, text, gradient=gradient)
    else:
        both = probe.empty.take([0] * count).join(text)
        unconditional, conditional = model.predict(
            probe.latents.repeat(2, 1, 1, 1), probe.timestep, both, gradient=gradient
        ).chunk(2)
        prediction = unconditional + guidance * (conditional - unconditional)
    difference = model.difference(prediction, probe.latents, probe.timestep)
    low, high = difference.amin((2, 3), keepdim=True), difference.amax((2, 3), keepdim=True)
    return (difference - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
