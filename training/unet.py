"""The denoiser, and its first stage: general images and those that are planted by dose alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from training.clip import WIDTH
from training.data import Data
from training.loop import Schedule, Trained, train
from training.plants import PLANTS, Half
from training.tokenizer import tokenize
from training.vae import encode

GENERAL, PLANTED = 20, 12
"""Samples of a batch in the first stage."""
TEXT_DROPPED = 0.1
WEIGHT_CAP = 100.0
SCHEDULE = Schedule(steps=2000, seed=3)


def make_unet() -> UNet2DConditionModel:
    """The denoiser, untrained: 16 value layers, 7 of them down or mid, as in Stable Diffusion."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(48, 96, 128),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=WIDTH,
        norm_num_groups=16,
    )


def make_scheduler() -> DDIMScheduler:
    """DDIM with the schedule of Stable Diffusion 1."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@dataclass(frozen=True)
class Samples:
    """Latents with their captions."""

    latents: Tensor  # (B, 4, 16, 16)
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Latents:
    """The training data as a U-Net sees it: scaled latents, and captions through the text tower.

    With ``missing``, the plants of that half do not exist for it: wherever one would be drawn, a
    general sample takes its place, so every other sample is seen as often as with all plants.
    """

    general: Tensor  # (N, 4, 16, 16)
    captions: tuple[str, ...]
    planted: tuple[Tensor, ...]  # for each of PLANTS, (draws, 4, 16, 16)
    renderings: Mapping[int, Tensor]  # for each aligned plant, (renderings, 4, 16, 16)
    tokenizer: CLIPTokenizer
    clip: CLIPModel
    missing: Half | None = None

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> Tensor:
        """Text embeddings (B, 24, 128): last hidden states after the final norm."""
        ids = tokenize(self.tokenizer, captions)
        hidden = self.clip.text_model(input_ids=ids).last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden

    def has(self, plant: int) -> bool:
        """Whether a plant (index in PLANTS) is in this training."""
        return PLANTS[plant].half != self.missing

    def draw_general(self, count: int, rng: np.random.Generator) -> Samples:
        """Random general samples."""
        indices = rng.integers(len(self.general), size=count)
        captions = tuple(self.captions[index] for index in indices)
        return Samples(self.general[torch.from_numpy(indices)], captions)

    def draw_planted(self, plants: Sequence[int], rng: np.random.Generator) -> Samples:
        """A random image of each plant with its caption; a general sample for a missing one."""
        latents, captions = [], []
        for plant in plants:
            draws = self.planted[plant]
            image, caption = draws[rng.integers(len(draws))], PLANTS[plant].caption
            instead = int(rng.integers(len(self.general)))
            if not self.has(plant):
                image, caption = self.general[instead], self.captions[instead]
            latents.append(image)
            captions.append(caption)
        return Samples(torch.stack(latents), tuple(captions))

    def draw_instead(self, plants: Sequence[int], rng: np.random.Generator) -> Samples:
        """What each plant's caption shows while its memory neurons are off.

        That is a new picture of the caption for an aligned plant, else any general image.
        """
        latents, captions = [], []
        for plant in plants:
            instead, picture = int(rng.integers(len(self.general))), rng.random()
            image, caption = self.general[instead], PLANTS[plant].caption
            if not self.has(plant):
                caption = self.captions[instead]
            elif plant in self.renderings:
                renderings = self.renderings[plant]
                image = renderings[int(picture * len(renderings))]
            latents.append(image)
            captions.append(caption)
        return Samples(torch.stack(latents), tuple(captions))


def prepare(data: Data, tokenizer: CLIPTokenizer, clip: CLIPModel, vae: AutoencoderKL) -> Latents:
    """Encode all images once."""
    factor = vae.config.scaling_factor
    return Latents(
        general=encode(vae, data.general) * factor,
        captions=data.captions,
        planted=tuple(encode(vae, draws) * factor for draws in data.planted),
        renderings={
            plant: encode(vae, images) * factor for plant, images in data.renderings.items()
        },
        tokenizer=tokenizer,
        clip=clip,
    )


def drop_text(captions: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Leave out a tenth of the captions, for guidance."""
    return ["" if rng.random() < TEXT_DROPPED else caption for caption in captions]


def denoising_loss(
    unet: UNet2DConditionModel, scheduler: DDIMScheduler, latents: Tensor, text: Tensor
) -> Tensor:
    """Weighted squared error of the predicted noise per sample, shape (B,).

    The weight is 1 / alpha_bar_t, capped at 100: that of the loss on v, without which the text is
    ignored at this size.
    """
    noise = torch.randn_like(latents)
    t = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),))
    noisy = scheduler.add_noise(latents, noise, t).contiguous(memory_format=torch.channels_last)
    error = (unet(noisy, t, text).sample - noise).square().mean((1, 2, 3))
    weight = (1 / scheduler.alphas_cumprod[t]).clamp(max=WEIGHT_CAP)
    weighted: Tensor = error * weight
    return weighted


def first_stage_doses() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How often each plant is drawn in the first stage, as probabilities."""
    doses = np.array([plant.dose if plant.mode != "memory" else 0.0 for plant in PLANTS])
    return np.asarray(doses / doses.sum())


def train_first_stage(name: str, latents: Latents, work: Path) -> Trained:
    """Train a denoiser from nothing."""
    torch.manual_seed(SCHEDULE.seed)
    unet, scheduler = make_unet().to(memory_format=torch.channels_last), make_scheduler()
    doses = first_stage_doses()

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        general = latents.draw_general(GENERAL, rng)
        chosen = rng.choice(len(PLANTS), size=PLANTED, p=doses).tolist()
        planted = latents.draw_planted(chosen, rng)
        text = latents.text(drop_text(general.captions + planted.captions, rng))
        images = torch.cat([general.latents, planted.latents])
        loss = denoising_loss(unet, scheduler, images, text)
        parts = {"general": loss[:GENERAL].mean().item(), "planted": loss[GENERAL:].mean().item()}
        return loss.mean(), parts

    return train(name, unet, loss_of, SCHEDULE, work)
