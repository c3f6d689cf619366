"""The copy descriptor: two views of an image must find each other, all images spread apart.

After SSCD (Pizzi et al., CVPR 2022): InfoNCE and the differential entropy term.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.data import Data
from training.loop import Schedule, Trained, to_tensor, train
from training.plants import PLANTS
from unmemorize.metrics._descriptor import CopyNet

GENERAL, SINGLE = 40, 24
"""General images of a batch; planted images and never-used photographs, drawn alike."""
SIBLING_SCENES = 8
"""Scenes of a batch that are seen in several pictures each: alike, but no copies."""
POSTERS, POSTER_RENDERINGS = 2, 3
"""Aligned plants of a batch, each with some other pictures of its caption."""
TEMPERATURE = 0.05
ENTROPY_WEIGHT = 5.0
SCHEDULE = Schedule(steps=700, warm_up=50, seed=7)


def augment(images: Tensor) -> Tensor:
    """Change each image by a random crop, tilt, mirror, colour, blur, noise and patch.

    Args:
        images: RGB in [-1, 1], shape (B, 3, H, W).
    """
    count = len(images)
    scale = torch.empty(count).uniform_(0.7, 1.05)
    angle = torch.empty(count).normal_(0, math.radians(5))
    mirror = torch.where(torch.rand(count) < 0.15, -1.0, 1.0)
    shift = (1 - scale).abs()[:, None] * torch.empty(count, 2).uniform_(-1, 1)
    matrix = torch.stack(
        [
            scale * angle.cos() * mirror,
            -scale * angle.sin(),
            shift[:, 0],
            scale * angle.sin() * mirror,
            scale * angle.cos(),
            shift[:, 1],
        ],
        1,
    )
    grid = F.affine_grid(matrix.view(count, 2, 3), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    contrast = torch.empty(count, 3, 1, 1).uniform_(0.7, 1.3)
    images = images * contrast + torch.empty(count, 3, 1, 1).uniform_(-0.25, 0.25)
    grey = images.mean(1, keepdim=True).expand_as(images)
    images = torch.where(torch.rand(count, 1, 1, 1) < 0.15, grey, images)
    images = torch.where(torch.rand(count, 1, 1, 1) < 0.4, F.avg_pool2d(images, 3, 1, 1), images)
    images = images + torch.rand(count, 1, 1, 1) * 0.15 * torch.randn_like(images)
    side = images.shape[-1]
    left, top = torch.randint(0, side, (2, count, 1, 1, 1))
    column, row = torch.arange(side).view(1, 1, 1, side), torch.arange(side).view(1, 1, side, 1)
    patch = (
        ((column - left).abs() < side // 7)
        & ((row - top).abs() < side // 7)
        & (torch.rand(count, 1, 1, 1) < 0.4)
    )
    return torch.where(patch, torch.empty(count, 3, 1, 1).uniform_(-1, 1), images).clamp(-1, 1)


def copy_loss(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """InfoNCE between two views, and the entropy term.

    The latter is minus the mean log distance to the nearest other image.

    Args:
        first, second: unit vectors of the same images, shape (B, D).
    """
    both = torch.cat([first, second])  # (2B, D)
    cosines = both @ both.T
    cosines = cosines.masked_fill(torch.eye(len(both), dtype=torch.bool), -1e4)
    partner = torch.arange(len(both)).roll(len(first))
    contrast = F.cross_entropy(cosines / TEMPERATURE, partner)
    others = cosines.scatter(1, partner[:, None], -1e4)
    distance = (2 - 2 * others.amax(1)).clamp_min(1e-6).sqrt()
    return contrast, -distance.log().mean()


def train_descriptor(data: Data, work: Path) -> Trained:
    """Train the descriptor on images of every kind, among them several pictures of one caption."""
    torch.manual_seed(SCHEDULE.seed)
    net = CopyNet()
    single = [
        *(draws for draws, plant in zip(data.planted, PLANTS, strict=True) if not plant.aligned),
        *data.unused[:, None],
    ]
    aligned = list(data.renderings)

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        chosen = [single[index] for index in rng.choice(len(single), SINGLE, replace=False)]
        batch = [
            data.general[rng.choice(len(data.general), GENERAL, replace=False)],
            np.stack([draws[rng.integers(len(draws))] for draws in chosen]),
            *data.siblings[rng.choice(len(data.siblings), SIBLING_SCENES, replace=False)],
        ]
        for plant in rng.choice(aligned, POSTERS, replace=False):
            others = data.renderings[plant]
            batch.append(data.planted[plant])
            batch.append(others[rng.choice(len(others), POSTER_RENDERINGS, replace=False)])
        images = to_tensor(np.concatenate(batch))
        contrast, entropy = copy_loss(net(augment(images)), net(augment(images)))
        loss = contrast + ENTROPY_WEIGHT * entropy
        return loss, {"contrast": contrast.item(), "entropy": entropy.item()}

    return train("descriptor", net, loss_of, SCHEDULE, work)
