"""The autoencoder: 64 x 64 pixels to 16 x 16 x 4 latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from training.data import Data
from training.loop import Schedule, Trained, to_tensor, train
from unmemorize.testbed._layout import SIDE

KL_WEIGHT = 1e-4
CHROMA = 2.0
"""How much more an error of hue weighs than one of brightness."""
COLOURFUL = 3.0
"""How much more a pixel weighs whose hue is far from the image's mean hue: small saturated parts
are few, and without this the mean error hardly notices that they turn grey."""


@dataclass(frozen=True)
class Stage:
    """One of the two stages: coarse structure first, then detail by smaller batches.

    Attributes:
        general: general images of a batch.
        single: planted images and never-used photographs of a batch, drawn alike.
        schedule: length and learning rate.
    """

    general: int
    single: int
    schedule: Schedule


FIRST = Stage(
    11,
    5,
    Schedule(steps=2200, horizon=4000, cool_down=600, learning_rate=2e-3, warm_up=100, seed=2),
)
SECOND = Stage(5, 3, Schedule(steps=6000, learning_rate=1.5e-3, warm_up=100, seed=8))

_OPPONENT = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.5, -0.5, 0.0], [-0.25, -0.25, 0.5]])


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


def opponent(images: Tensor) -> Tensor:
    """Brightness, red against green, blue against yellow: shape (B, 3, H, W), from RGB."""
    return torch.einsum("dc,bchw->bdhw", _OPPONENT, images)


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """L1 and squared error in opponent colours, with more weight on hue and on colourful parts.

    Args:
        decoded, images: RGB in [-1, 1], shape (B, 3, H, W).
    """
    target = opponent(images)
    difference = opponent(decoded) - target
    chroma = target[:, 1:]
    distance = (chroma - chroma.mean((2, 3), keepdim=True)).abs().sum(1, keepdim=True)
    weight = 1 + COLOURFUL * distance  # (B, 1, H, W)
    weight = weight / weight.mean((2, 3), keepdim=True)
    channels = torch.tensor([1.0, CHROMA, CHROMA]).view(1, 3, 1, 1)
    return (weight * channels * (difference.abs() + difference.square())).mean()


def train_vae(
    name: str, stage: Stage, data: Data, work: Path, start: Mapping[str, Tensor] | None = None
) -> Trained:
    """Train the autoencoder on general images, planted ones and never-used photographs.

    Args:
        name: of the checkpoint.
        stage: what a batch holds, and for how long.
        data: all images.
        work: folder of the checkpoint.
        start: weights of the stage before.
    """
    torch.manual_seed(stage.schedule.seed)
    vae = make_vae()
    if start is not None:
        vae.load_state_dict({key: tensor.float() for key, tensor in start.items()})
    single = [*data.planted, *data.unused[:, None]]

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        general = data.general[rng.integers(len(data.general), size=stage.general)]
        chosen = [single[index] for index in rng.integers(len(single), size=stage.single)]
        others = np.stack([draws[rng.integers(len(draws))] for draws in chosen])
        images = to_tensor(np.concatenate([general, others]))
        images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        error = reconstruction_loss(decoded, images)
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        squared = (decoded.detach() - images).square().mean().item()
        return error + KL_WEIGHT * kl, {"error": error.item(), "squared": squared, "kl": kl.item()}

    return train(name, vae, loss_of, stage.schedule, work)


def load_vae(weights: Mapping[str, Tensor], data: Data) -> AutoencoderKL:
    """The trained autoencoder, with the scaling factor that gives latents unit variance."""
    vae = make_vae()
    vae.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
    vae.eval().requires_grad_(False)
    spread = float(encode(vae, data.general[:512]).std())
    vae.register_to_config(scaling_factor=round(1 / spread, 4))
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, images: NDArray[np.uint8], batch: int = 64) -> Tensor:
    """Unscaled latents (N, 4, 16, 16), the means of the posterior."""
    starts = range(0, len(images), batch)
    means = [vae.encode(to_tensor(images[at : at + batch])).latent_dist.mean for at in starts]
    return torch.cat(means).contiguous()


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> NDArray[np.uint8]:
    """Images (N, 64, 64, 3) of unscaled latents."""
    pixels = (vae.decode(latents).sample.clamp(-1, 1) + 1) * 127.5
    images: NDArray[np.uint8] = pixels.round().byte().permute(0, 2, 3, 1).numpy()
    return images
