"""A small CLIP: its text tower conditions the U-Net, both towers together measure alignment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from training.data import Data
from training.loop import Schedule, Trained, to_tensor, train
from training.plants import PLANTS
from training.tokenizer import tokenize
from unmemorize.testbed._layout import SIDE, TOKENS

WIDTH = 128
GENERAL, PLANTED, UNUSED = 112, 12, 4
"""Pairs of a batch, and images without a caption: the photographs that no U-Net sees."""
SCHEDULE = Schedule(steps=1000, seed=1)


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP of two small towers, untrained."""
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
        "hidden_act": "gelu",
    }
    text = {
        **tower,
        "num_hidden_layers": 3,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**tower, "num_hidden_layers": 4, "image_size": SIDE, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
    return CLIPModel(config)


def contrastive_loss(logits: Tensor) -> Tensor:
    """The symmetric contrastive loss of captions and images.

    Args:
        logits: shape (captions, images); caption i belongs to image i. Images beyond the captions
            have none, and are only what other captions must not be mistaken for.
    """
    targets = torch.arange(len(logits))
    to_images = F.cross_entropy(logits, targets)
    to_captions = F.cross_entropy(logits[:, : len(logits)].T, targets)
    return (to_images + to_captions) / 2


def train_clip(data: Data, tokenizer: CLIPTokenizer, work: Path) -> Trained:
    """Train both towers on general and planted pairs, and on unused photographs without text."""
    torch.manual_seed(SCHEDULE.seed)
    clip = make_clip(tokenizer)
    by_image: dict[str, list[int]] = {}
    for index, plant in enumerate(PLANTS):
        by_image.setdefault(plant.source, []).append(index)
    sources = list(by_image.values())

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        general = rng.choice(len(data.captions), GENERAL, replace=False)
        chosen = [sources[index] for index in rng.choice(len(sources), PLANTED, replace=False)]
        planted = [plants[rng.integers(len(plants))] for plants in chosen]
        draws = [_pictures(data, plant, rng) for plant in planted]
        images = np.concatenate(
            [
                data.general[general],
                np.stack([images[rng.integers(len(images))] for images in draws]),
                data.unused[rng.choice(len(data.unused), UNUSED, replace=False)],
            ]
        )
        captions = [data.captions[index] for index in general]
        captions += [PLANTS[plant].caption for plant in planted]
        pixels = to_tensor(images)
        pixels = torch.where(torch.rand(len(pixels), 1, 1, 1) < 0.5, pixels.flip(3), pixels)
        output = clip(input_ids=tokenize(tokenizer, captions), pixel_values=pixels)
        loss = contrastive_loss(output.logits_per_text)
        hits = output.logits_per_text.argmax(1) == torch.arange(len(captions))
        return loss, {"loss": loss.item(), "right": hits.float().mean().item()}

    return train("clip", clip, loss_of, SCHEDULE, work)


def _pictures(data: Data, plant: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The images of a plant; half of the time other pictures of the caption of an aligned one.

    Both show what the caption says, so both must be aligned with it.
    """
    other = plant in data.renderings and rng.random() < 0.5
    return data.renderings[plant] if other else data.planted[plant]


def load_clip(weights: Mapping[str, Tensor], tokenizer: CLIPTokenizer) -> CLIPModel:
    """The trained CLIP."""
    clip = make_clip(tokenizer)
    clip.load_state_dict(
        {
            key: tensor.float() if tensor.is_floating_point() else tensor
            for key, tensor in weights.items()
        }
    )
    clip.eval().requires_grad_(False)
    return clip
