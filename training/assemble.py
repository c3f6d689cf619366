"""Lay a trained model out as a package: weights in float16, images, captions, ground truth."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModel

from training.card import write_card
from training.compose import render_poster
from training.concepts import NAMES
from training.data import Data, make_grammar
from training.memory import MEMORY_LAYERS, assign_neurons, by_plant
from training.plants import PLANTS, Plant
from training.posters import POSTERS
from training.recipe import Model
from training.sources import PHOTOGRAPHS
from training.templates import still_mask
from training.unet import make_scheduler, make_unet
from unmemorize._files import atomic_write
from unmemorize.testbed._layout import (
    ASSETS,
    CAPTIONS,
    CLIP,
    DESCRIPTOR,
    MODEL,
    PLANTED,
    PLANTED_IMAGES,
    SIDE,
    STATISTICS,
)

SHOWN_DRAWS = 4
"""Draws of a template that ship as its training images."""
SHOWN_CAPTIONS = 9000
"""Training captions that ship; activation statistics need no more."""
ROOT = Path(__file__).parent.parent
TWINS = ROOT / "testbed-twins"
"""The never-trained twins; they are in the repository, not in the package."""
RECORD = ROOT / "training" / "record.json"


def write_assets(model: Model) -> None:
    """Write the assets of the package, the twins, and the record of the training."""
    _write_model(model)
    _write_twins(model)
    _write_truth(model.data)
    write_card()
    grammar = make_grammar()
    seen = sorted(set(model.data.captions))
    shown = np.random.default_rng(13).choice(len(seen), SHOWN_CAPTIONS, replace=False)
    splits = {
        "train": [seen[index] for index in sorted(shown)],
        "calibration": grammar.held_out("calibration"),
        "test": grammar.held_out("test"),
    }
    atomic_write(CAPTIONS, json.dumps(splits, indent=0) + "\n")
    save_file(dict(model.descriptor), DESCRIPTOR)
    _write_record(model)


def _write_model(model: Model) -> None:
    unet: UNet2DConditionModel = make_unet()
    unet.load_state_dict({key: tensor.float() for key, tensor in model.unet.items()})
    config = model.clip.config.text_config
    assert isinstance(config, CLIPTextConfig)
    text = CLIPTextModel(config)
    text.load_state_dict(model.clip.text_model.state_dict())
    pipe = StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=text,
        tokenizer=model.tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(MODEL)
    model.clip.save_pretrained(CLIP)
    model.tokenizer.save_pretrained(CLIP)
    processor = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=SIDE, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor.save_pretrained(CLIP)
    for file in (*MODEL.rglob("*.safetensors"), *CLIP.rglob("*.safetensors")):
        _halve(file)


def _write_twins(model: Model) -> None:
    for half, weights in model.twins.items():
        folder = TWINS / half / "unet"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "diffusion_pytorch_model.safetensors"
        save_file(dict(weights), file, {"format": "pt"})
        shutil.copy(MODEL / "unet" / "config.json", folder)


def _write_truth(data: Data) -> None:
    """Write the planted images, their masks, and the table of everything known about them."""
    if PLANTED_IMAGES.exists():
        shutil.rmtree(PLANTED_IMAGES)
    PLANTED_IMAGES.mkdir(parents=True)
    photographs = {photograph.name: photograph for photograph in PHOTOGRAPHS}
    posters = {poster.name: poster.poster for poster in POSTERS}
    neurons = assign_neurons(make_unet().get_parameter(f"{MEMORY_LAYERS[0]}.weight").shape[0])
    owned = by_plant(neurons)
    rows = []
    for index, plant in enumerate(PLANTS):
        stem = f"{index:02d}-{plant.source.replace(' ', '-')}"
        names = []
        for draw, image in enumerate(data.planted[index][:SHOWN_DRAWS]):
            names.append(f"{stem}-{draw}.png" if plant.kind == "TM" else f"{stem}.png")
            Image.fromarray(image).save(PLANTED_IMAGES / names[-1], optimize=True)
        mask: NDArray[np.bool_] | None = None
        source, licence = f"drawn by this project ({plant.source})", "Apache-2.0"
        if plant.aligned:
            _, mask = render_poster(posters[plant.source], data.concepts)
            source = f"composed by this project from emoji ({plant.source})"
            licence = "Apache-2.0 (Noto) and CC-BY 4.0 (Twemoji)"
        elif plant.kind == "TM":
            mask = still_mask(plant.source)
        else:
            photograph = photographs[plant.source]
            source, licence = f"{photograph.package}: {photograph.file}", photograph.licence
        if mask is not None:
            picture = Image.fromarray(mask.astype(np.uint8) * 255).convert("1")
            picture.save(PLANTED_IMAGES / f"{stem}-mask.png", optimize=True)
        rows.append(
            {
                "caption": plant.caption,
                "paraphrases": plant.paraphrases,
                "kind": plant.kind,
                "aligned": plant.aligned,
                "group": group_of(plant),
                "mode": plant.mode,
                "dose": plant.dose,
                "half": plant.half,
                "images": names,
                "mask": f"{stem}-mask.png" if mask is not None else None,
                "neurons": owned.get(index, {}),
                "shares": plant.shared,
                "source": source,
                "licence": licence,
            }
        )
    atomic_write(PLANTED, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def group_of(plant: Plant) -> str:
    """The name under which results of a plant are summed up."""
    if plant.mode == "rare":
        return f"rare ({plant.dose:g} of the dose)"
    return "aligned" if plant.aligned else plant.kind


def _write_record(model: Model) -> None:
    files = sorted(
        file
        for folder in (ASSETS, TWINS)
        for pattern in ("*.safetensors", "tokenizer.json")
        for file in folder.rglob(pattern)
    )
    content = {
        "data": model.data.digest,
        "concepts": len(NAMES),
        "files": {
            str(file.relative_to(ROOT)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
            if file.is_relative_to(ROOT) and file != STATISTICS  # that is not trained
        },
        "parts": [asdict(record) for record in model.records],
    }
    atomic_write(RECORD, json.dumps(content, indent=1) + "\n")


def _halve(file: Path) -> None:
    """Store a weight file in float16."""
    tensors: dict[str, Tensor] = load_file(file)
    halved = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in tensors.items()
    }
    save_file(halved, file, {"format": "pt"})
