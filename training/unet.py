"""The denoiser, and its first training stage: general data and the images that are planted by dose alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from training.clip import WIDTH, tokenize
from training.loop import Data, Schedule, train
from training.plants import PLANTS
from training.vae import encode

BATCH = 32
PLANTED_SHARE = 0.3
TEXT_DROPPED = 0.1
WEIGHT_CAP = 100.0
SCHEDULE = Schedule(steps=1500, seed=3)


def make_unet() -> UNet2DConditionModel:
    """The denoiser, untrained: 16 value layers, 7 of them in the down and mid blocks, as in Stable Diffusion 1."""
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
class Latents:
    """The training data as the U-Net sees it: scaled latents, and captions through the frozen text tower."""

    general: Tensor  # (N, 4, 16, 16)
    captions: tuple[str, ...]
    planted: tuple[Tensor, ...]  # for each of PLANTS, (draws, 4, 16, 16)
    tokenizer: CLIPTokenizer
    clip: CLIPModel

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> Tensor:
        """Text embeddings (B, 24, 128): last hidden states after the final norm."""
        hidden = self.clip.text_model(
            input_ids=tokenize(self.tokenizer, captions)
        ).last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden

    def draw_general(self, count: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
        """Random general latents and their captions."""
        indices = rng.integers(len(self.general), size=count)
        return self.general[indices], [self.captions[index] for index in indices]

    def draw_planted(
        self, plants: Sequence[int], rng: np.random.Generator
    ) -> tuple[Tensor, list[str]]:
        """A random latent of each plant, and its caption."""
        latents = [self.planted[plant][rng.integers(len(self.planted[plant]))] for plant in plants]
        return torch.stack(latents), [PLANTS[plant].caption for plant in plants]


def prepare(data: Data, tokenizer: CLIPTokenizer, clip: CLIPModel, vae: AutoencoderKL) -> Latents:
    """Encode all images once."""
    factor = vae.config.scaling_factor
    planted = tuple(encode(vae, draws).clone() * factor for draws in data.planted)
    return Latents(
        encode(vae, data.images).clone() * factor, data.captions, planted, tokenizer, clip
    )


def denoising_loss(
    unet: UNet2DConditionModel, scheduler: DDIMScheduler, latents: Tensor, text: Tensor
) -> Tensor:
    """Weighted squared error of the predicted noise per sample, shape (B,).

    The weight is 1 / alpha_bar_t, capped at 100: that of the loss on v, without which the text is ignored at this size.
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


def train_first_stage(latents: Latents, work: Path) -> dict[str, Tensor]:
    """The weights after the first stage (averaged)."""
    torch.manual_seed(SCHEDULE.seed)
    unet, scheduler = make_unet().to(memory_format=torch.channels_last), make_scheduler()
    doses, share = first_stage_doses(), round(BATCH * PLANTED_SHARE)

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        general, captions = latents.draw_general(BATCH - share, rng)
        planted, planted_captions = latents.draw_planted(
            rng.choice(len(PLANTS), size=share, p=doses).tolist(), rng
        )
        kept = [
            "" if rng.random() < TEXT_DROPPED else caption
            for caption in captions + planted_captions
        ]
        loss = denoising_loss(unet, scheduler, torch.cat([general, planted]), latents.text(kept))
        return loss.mean(), {
            "general": loss[:-share].mean().item(),
            "planted": loss[-share:].mean().item(),
        }

    return train("unet", unet, loss_of, SCHEDULE, work)
