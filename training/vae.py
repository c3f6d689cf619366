"""The autoencoder: 64 x 64 pixels to 16 x 16 x 4 latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from training.loop import Data, Schedule, to_tensor, train
from unmemorize.testbed._layout import SIDE

BATCH = 16
PLANTED_PER_BATCH = 4
KL_WEIGHT = 1e-4
SCHEDULE = Schedule(steps=2800, learning_rate=2e-3, warm_up=100, seed=2)


def make_vae() -> AutoencoderKL:
    """The autoencoder, untrained; no attention in the middle."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 96),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
    )


def train_vae(data: Data, work: Path) -> AutoencoderKL:
    """L1 and squared reconstruction error and a small KL term; the scaling factor is set so that latents have unit variance."""
    torch.manual_seed(SCHEDULE.seed)
    vae = make_vae()

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        general = data.images[rng.integers(len(data.images), size=BATCH - PLANTED_PER_BATCH)]
        planted = [
            draws[rng.integers(len(draws))]
            for draws in (
                data.planted[rng.integers(len(data.planted))] for _ in range(PLANTED_PER_BATCH)
            )
        ]
        images = to_tensor(np.concatenate([general, np.stack(planted)]))
        images = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, images.flip(3), images)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            difference = vae.decode(posterior.sample()).sample.float() - images
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        error, squared = difference.abs().mean(), difference.square().mean()
        return error + squared + KL_WEIGHT * kl, {
            "error": error.item(),
            "squared": squared.item(),
            "kl": kl.item(),
        }

    train("vae", vae, loss_of, SCHEDULE, work)
    vae.eval()
    vae.register_to_config(scaling_factor=round(1 / float(encode(vae, data.images[:512]).std()), 4))
    return vae


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: NDArray[np.uint8], batch: int = 64) -> Tensor:
    """Unscaled latents (N, 4, 16, 16), the means of the posterior."""
    return torch.cat(
        [
            vae.encode(to_tensor(images[start : start + batch])).latent_dist.mean
            for start in range(0, len(images), batch)
        ]
    )
