"""SISS: subtracted importance-sampled scores, which unlearn an image and keep others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from unmemorize._checked import check_fields
from unmemorize._errors import MitigationError
from unmemorize.generation import WeightEdit
from unmemorize.methods._latents import drawn_in_batches, encoded_images
from unmemorize.methods._method import Suspect, refuse_outside
from unmemorize.methods._random_tokens import RandomTokens
from unmemorize.methods._training import training, weighted_layers
from unmemorize.pipelines import Conditioning, Model, NoiseLevel, sampler

_MIXTURE, _DECAY, _CLIP, _BATCH = 0.5, 1e-2, 1.0, 16
"""Published: the share of noisy samples that come from the image to delete, weight decay, the norm
that gradients are clipped to, and the samples of a step."""
_KEPT, _TOKENS, _SEED = 16, 10, 4
"""Images to keep and their random tokens, which are ours, and the seed of everything."""
_OF_ONE = 10
"""Images of a batch that take as much memory as one sample of a training step."""
_NOTHING = 1e-6
"""A norm of gradients that is nothing but rounding."""


@dataclass(frozen=True)
class Siss:
    """Trains all weights away from the training images, and towards other images of the prompt.

    Noisy samples come from an image to delete (half of them) or from one to keep. Both losses of a
    sample are weighted by importance, see `importance`. The gradient of the loss of deleted images
    is scaled to the norm ``ascent`` and subtracted from that of the kept ones. AdamW, weight decay
    .01, 16 samples per step, norm of the gradient clipped to 1.

    Images to keep are drawn by the model itself from the prompt with ten random tokens. This is
    ours: the published code selects images that do not copy.

    Args:
        strength: the number of training steps, a whole number. Published: 35.
        rate: the learning rate. Published: 1e-5 for Stable Diffusion. The default is for the small
            bundled model.
        ascent: the norm of the subtracted gradient. Published: 750 for Stable Diffusion, 5 for a
            toy model.

    Source: Alberti et al., "Data Unlearning in Diffusion Models", ICLR 2025.

    Examples:
        >>> Siss().strength
        35.0
    """

    name: ClassVar[str] = "siss"
    grid: ClassVar[tuple[float, ...]] = (10.0, 20.0, 35.0)

    strength: float = 35.0
    rate: float = 1e-4
    ascent: float = 750.0

    def __post_init__(self) -> None:
        check_fields(self, MitigationError)
        refuse_outside(self.name, self.strength, 1, whole=True)

    @torch.inference_mode(False)  # the caller may have switched gradients off
    def fit(self, model: Model, suspect: Suspect) -> WeightEdit:
        """See `Mitigation`. It needs training images.

        Raises:
            MitigationError: there are none, the model does not predict noise, or cannot be trained.
        """
        schedule = sampler(model.pipe)
        if not isinstance(schedule, DDIMScheduler) or (
            schedule.config.prediction_type != "epsilon"
        ):
            raise MitigationError(
                f"{self.name}: {model.name} does not predict noise, for which the losses are "
                "defined. Use random-tokens or neurons."
            )
        if not suspect.prompt.images:
            raise MitigationError(
                f"{self.name}: {suspect.prompt.text[:60]!r} names no training image to unlearn. "
                "Name them in the prompt file (images) or in Prompt(..., images=...), or use esd."
            )
        generator = torch.Generator().manual_seed(_SEED)
        # training keeps much more of a pass than drawing does
        together = max(1, suspect.settings.batch // _OF_ONE)
        with training(model, weighted_layers(model), self.name) as weights:
            deleted = encoded_images(model, suspect.prompt.images, self.name)
            kept = _surrogates(model, suspect)
            text = model.encode([suspect.prompt.text])
            values = weights.values()
            optimizer = torch.optim.AdamW(values, lr=self.rate, weight_decay=_DECAY)
            for _ in range(int(self.strength)):
                towards = [torch.zeros_like(value) for value in values]
                away = [torch.zeros_like(value) for value in values]
                for start in range(0, _BATCH, together):
                    samples = [
                        _drawn(deleted, kept, schedule, generator)
                        for _ in range(min(together, _BATCH - start))
                    ]
                    keep, delete = _losses(model, samples, text)
                    _add(towards, weights.gradients(keep, again=True))
                    _add(away, weights.gradients(delete))
                size = torch.stack([gradient.norm() for gradient in away]).norm()
                # nothing to subtract where no sample is near a deleted image
                factor = self.ascent / float(size) if float(size) > _NOTHING else 0.0
                for value, one, other in zip(values, towards, away, strict=True):
                    value.grad = one / _BATCH - factor * other
                torch.nn.utils.clip_grad_norm_(values, _CLIP)
                optimizer.step()
            return weights.edit(self.name)


@dataclass(frozen=True, eq=False)
class Sample:
    """A noisy latent, which comes from an image to keep or one to delete.

    Args:
        noisy: (1, C, H, W), signal times a clean latent plus sigma times noise.
        timestep: (), int64.
        kept: the clean latent of the image to keep, (1, C, H, W).
        deleted: that of the image to delete.
        signal: what clean latents are multiplied by.
        sigma: what noise is multiplied by.
    """

    noisy: Tensor
    timestep: Tensor
    kept: Tensor
    deleted: Tensor
    signal: float
    sigma: float

    def losses(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted losses of the image to keep and of the one to delete, () each."""
        weights = importance(self.noisy, self.kept, self.deleted, self.signal, self.sigma)
        errors = [
            (prediction - (self.noisy - self.signal * clean) / self.sigma).square().sum()
            for clean in (self.kept, self.deleted)
        ]
        return weights[0] * errors[0], weights[1] * errors[1]


def importance(
    noisy: Tensor, kept: Tensor, deleted: Tensor, signal: float, sigma: float
) -> tuple[float, float]:
    """Return how much more likely a noisy latent is from one of two images than from their mixture.

    Args:
        noisy: the noisy latent, of any shape.
        kept, deleted: the clean latents.
        signal, sigma: what latents and noise are multiplied by.

    Returns:
        The weights of the image to keep and of the one to delete. Their mean is 1.
    """
    noisy, kept, deleted = (latent.cpu().double() for latent in (noisy, kept, deleted))
    keep, delete = (
        float((noisy - signal * clean).square().sum()) / (2 * sigma**2) for clean in (kept, deleted)
    )
    # e^-709 is the smallest number that is not 0
    nearer = math.exp(min(max(keep - delete, -700.0), 700.0))
    weight = 1 / ((1 - _MIXTURE) + _MIXTURE * nearer)
    return weight, (1 - (1 - _MIXTURE) * weight) / _MIXTURE


def _losses(model: Model, samples: Sequence[Sample], text: Conditioning) -> tuple[Tensor, Tensor]:
    """Return the sums over samples of their losses, see `Sample.losses`, from one pass."""
    predictions = model.predict(
        torch.cat([sample.noisy for sample in samples]),
        torch.stack([sample.timestep for sample in samples]),
        text.take([0] * len(samples)),
        gradient=True,
    )
    losses = [
        sample.losses(prediction)
        for sample, prediction in zip(samples, predictions.split(1), strict=True)
    ]
    keep, delete = (torch.stack(each).sum() for each in zip(*losses, strict=True))
    return keep, delete


def _drawn(
    deleted: Tensor, kept: Tensor, schedule: DDIMScheduler, generator: torch.Generator
) -> Sample:
    steps = int(schedule.config.num_train_timesteps)
    timestep = torch.randint(steps, (), generator=generator)
    keep, delete = (
        clean[[int(torch.randint(len(clean), (), generator=generator))]]
        for clean in (kept, deleted)
    )
    level = NoiseLevel.of(schedule, timestep)
    noise = torch.randn(keep.shape, generator=generator, dtype=torch.float32).to(keep)
    clean = (
        delete
        if float(torch.rand((), generator=generator, dtype=torch.float32)) < _MIXTURE
        else keep
    )
    weights = float(level.signal), float(level.sigma)
    return Sample(level.noisy(clean, noise), timestep, keep, delete, *weights)


def _surrogates(model: Model, suspect: Suspect) -> Tensor:
    """Draw images of the prompt with random tokens, as clean latents (images, C, H, W)."""
    method, settings = RandomTokens(_TOKENS), suspect.settings
    prompts = [method.rewritten(model, suspect.prompt.text, seed) for seed in range(_KEPT)]
    noise = model.draw_latents(_KEPT, _SEED)
    return torch.cat(list(drawn_in_batches(model, prompts, noise, settings)))


def _add(totals: list[Tensor], gradients: list[Tensor]) -> None:
    for total, gradient in zip(totals, gradients, strict=True):
        total += gradient
