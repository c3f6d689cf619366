"""All parts in their order: CLIP, descriptor, autoencoder, the main denoiser, its two twins."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from training import clip as clip_part
from training import descriptor as descriptor_part
from training import memory, unet
from training.data import Data, load_data
from training.loop import Trained
from training.parts import Part, Parts, Record
from training.plants import Half
from training.tokenizer import make_tokenizer
from training.unet import Latents, prepare
from training.vae import FIRST, SECOND, load_vae, train_vae

logger = logging.getLogger(__name__)

TWINS: tuple[Half, ...] = ("a", "b")


@dataclass(frozen=True)
class Model:
    """Everything that a training makes."""

    data: Data
    tokenizer: CLIPTokenizer
    clip: CLIPModel
    vae: AutoencoderKL
    descriptor: Mapping[str, Tensor]
    unet: Mapping[str, Tensor]
    twins: Mapping[Half, Mapping[str, Tensor]]
    """For each half the denoiser that never saw it."""
    records: tuple[Record, ...]


def train_all(work: Path) -> Model:
    """Train every part that is missing. The same call resumes an interrupted training.

    Args:
        work: folder for downloads, checkpoints and finished parts, about 2 GB.

    Raises:
        TestbedError: the training data cannot be fetched.
    """
    torch.use_deterministic_algorithms(True)
    work.mkdir(parents=True, exist_ok=True)
    data, parts = load_data(work), Parts(work)
    tokenizer = make_tokenizer(data.captions)
    tokens = _digest_of_tokenizer(tokenizer)
    images = {"data": data.digest}
    clip = parts.get(
        "clip",
        clip_part.SCHEDULE,
        {**images, "tokenizer": tokens},
        lambda: clip_part.train_clip(data, tokenizer, work),
    )
    descriptor = parts.get(
        "descriptor",
        descriptor_part.SCHEDULE,
        images,
        lambda: descriptor_part.train_descriptor(data, work),
    )
    vae = _train_autoencoder(data, parts, images, work)
    autoencoder = load_vae(vae.weights, data)
    towers = clip_part.load_clip(clip.weights, tokenizer)
    inputs = {
        **images,
        "tokenizer": tokens,
        "vae": vae.record.sha256,
        "clip": clip.record.sha256,
    }
    latents = _latents(work, data, tokenizer, towers, autoencoder, vae.record.sha256)
    denoiser = _train_denoiser("unet", latents, parts, inputs, work)
    twins: dict[Half, Mapping[str, Tensor]] = {}
    for half in TWINS:
        without = replace(latents, missing=half)
        twin = _train_denoiser(f"twin-{half}", without, parts, {**inputs, "missing": half}, work)
        twins[half] = twin.weights
    records = parts.records()
    for record in records:
        logger.info("%s: %.0f minutes", record.name, record.seconds / 60)
    return Model(
        data,
        tokenizer,
        towers,
        autoencoder,
        descriptor.weights,
        denoiser.weights,
        twins,
        records,
    )


def _train_autoencoder(data: Data, parts: Parts, inputs: Mapping[str, str], work: Path) -> Part:
    """Both stages of the autoencoder; the first is needed only to train the second."""

    def second() -> Trained:
        first = parts.get(
            "vae-stage-1",
            FIRST.schedule,
            inputs,
            lambda: train_vae("vae-stage-1", FIRST, data, work),
        )
        return train_vae("vae", SECOND, data, work, first.weights)

    return parts.get("vae", SECOND.schedule, {**inputs, "stage 1": repr(FIRST)}, second)


def _train_denoiser(
    name: str, latents: Latents, parts: Parts, inputs: Mapping[str, str], work: Path
) -> Part:
    """Both stages of a denoiser; the first is needed only to train the second."""

    def second() -> Trained:
        first = parts.get(
            f"{name}-stage-1",
            unet.SCHEDULE,
            inputs,
            lambda: unet.train_first_stage(f"{name}-stage-1", latents, work),
        )
        return memory.train_second_stage(name, latents, first.weights, work)

    return parts.get(name, memory.SCHEDULE, {**inputs, "stage 1": repr(unet.SCHEDULE)}, second)


def _latents(
    work: Path,
    data: Data,
    tokenizer: CLIPTokenizer,
    clip: CLIPModel,
    vae: AutoencoderKL,
    digest: str,
) -> Latents:
    """The encoded images; the general ones are kept in ``work``, as encoding takes minutes."""
    file = work / f"latents-{digest[:16]}.safetensors"
    if file.exists():
        few = replace(data, general=data.general[:1])
        return replace(prepare(few, tokenizer, clip, vae), general=load_file(file)["general"])
    latents = prepare(data, tokenizer, clip, vae)
    save_file({"general": latents.general}, file)
    return latents


def _digest_of_tokenizer(tokenizer: CLIPTokenizer) -> str:
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
