"""Train all parts in order and lay the result out as a package: weights in float16, images, captions, ground truth."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.card import write_card
from training.clip import keep_tokenizer, train_clip
from training.compose import split_captions
from training.descriptor import train_descriptor
from training.loop import Data, load_data
from training.memory import Owned, train_second_stage
from training.plants import PLANTS, Plant
from training.sources import PHOTOGRAPHS
from training.unet import make_scheduler, make_unet, prepare, train_first_stage
from training.vae import train_vae
from unmemorize.testbed._layout import (
    ASSETS,
    CAPTIONS,
    CLIP,
    DESCRIPTOR,
    MODEL,
    PLANTED,
    PLANTED_IMAGES,
    SIDE,
)

logger = logging.getLogger(__name__)

SHOWN_DRAWS = 4
"""Draws of a template that ship as its training images."""


def train_all(work: Path) -> None:
    """Train the bundled model from nothing, or go on where an earlier call stopped, and write the package's assets.

    Args:
        work: folder for downloads and checkpoints, about 1 GB.

    Raises:
        TestbedError: the training data cannot be fetched.
    """
    work.mkdir(parents=True, exist_ok=True)
    data = load_data(work)
    captions = split_captions(data.concepts)
    tokenizer = keep_tokenizer(captions.train, work)
    clip = train_clip(data, tokenizer, work)
    vae = train_vae(data, work)
    latents = prepare(data, tokenizer, clip, vae)
    first = train_first_stage(latents, work)
    final, owned = train_second_stage(latents, first, work)
    save_model(tokenizer, clip, vae, final)
    save_truth(data, owned)
    write_card()
    ASSETS.joinpath(CAPTIONS.name).write_text(
        json.dumps(captions.__dict__, indent=0) + "\n", encoding="utf-8"
    )
    weights = train_descriptor(data, work)
    save_file({key: tensor.half().contiguous() for key, tensor in weights.items()}, DESCRIPTOR)
    logger.info("the assets are in %s; now run: unmemorize testbed calibrate", ASSETS)


def save_model(
    tokenizer: CLIPTokenizer,
    clip: CLIPModel,
    vae: AutoencoderKL,
    unet_weights: Mapping[str, Tensor],
) -> None:
    """Write the pipeline and the CLIP; float16 on disk, float32 when loaded without a dtype."""
    unet: UNet2DConditionModel = make_unet()
    unet.load_state_dict(dict(unet_weights))
    config = clip.config.text_config
    assert isinstance(config, CLIPTextConfig)
    text = CLIPTextModel(config)
    text.load_state_dict(clip.text_model.state_dict())
    for module in (unet, text, vae, clip):
        _round(module)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(MODEL)
    clip.save_pretrained(CLIP)
    tokenizer.save_pretrained(CLIP)
    size = {"shortest_edge": SIDE}
    CLIPImageProcessor(
        size=size, crop_size=SIDE, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(CLIP)
    for file in (*MODEL.rglob("*.safetensors"), *CLIP.rglob("*.safetensors")):
        _halve(file)


def save_truth(data: Data, owned: Owned) -> None:
    """Write the planted images and the table of captions, doses, neurons, sources and licences."""
    PLANTED_IMAGES.mkdir(parents=True, exist_ok=True)
    photographs = {photograph.name: photograph for photograph in PHOTOGRAPHS}
    rows = []
    for index, plant in enumerate(PLANTS):
        names = []
        for draw, image in enumerate(data.planted[index][:SHOWN_DRAWS]):
            names.append(
                f"{index:02d}-{plant.source.replace(' ', '-')}"
                + (f"-{draw}" if plant.kind == "TM" else "")
                + ".png"
            )
            Image.fromarray(image).save(PLANTED_IMAGES / names[-1], optimize=True)
        photograph = photographs.get(plant.source) if plant.kind == "VM" else None
        rows.append(
            {
                "caption": plant.caption,
                "kind": plant.kind,
                "group": group_of(plant),
                "mode": plant.mode,
                "dose": plant.dose,
                "images": names,
                "neurons": owned.get(index, {}),
                "source": f"{photograph.package}: {photograph.file}"
                if photograph
                else f"drawn by this project ({plant.source})",
                "licence": photograph.licence if photograph else "Apache-2.0",
            }
        )
    PLANTED.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def group_of(plant: Plant) -> str:
    """The name under which results of a plant are summed up."""
    return plant.kind if plant.mode != "rare" else f"rare ({plant.dose:g} of the dose)"


def _round(module: nn.Module) -> None:
    """Round the weights to float16, so that what is checked is what ships."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())


def _halve(file: Path) -> None:
    """Store a weight file in float16."""
    tensors = load_file(file)
    save_file(
        {
            key: tensor.half() if tensor.is_floating_point() else tensor
            for key, tensor in tensors.items()
        },
        file,
        {"format": "pt"},
    )
