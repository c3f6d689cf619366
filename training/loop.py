"""What every training of the bundled model shares: data in memory, one resumable loop, an averaged copy of the weights."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.compose import compose_many
from training.plants import PLANTS
from training.sources import PHOTOGRAPHS, fetch_emoji, load_photograph
from training.templates import draw_template

logger = logging.getLogger(__name__)

GENERAL_IMAGES = 24_000
TEMPLATE_DRAWS = 128
SAVE_SECONDS = 120.0


@dataclass(frozen=True)
class Data:
    """All training images as uint8 RGB: the general ones with a caption each, and the draws of every plant."""

    images: NDArray[np.uint8]  # (N, 64, 64, 3)
    captions: tuple[str, ...]
    concepts: tuple[str, ...]
    planted: tuple[NDArray[np.uint8], ...]
    """For each of PLANTS, (draws, 64, 64, 3): one draw for VM, many for TM."""


def load_data(work: Path) -> Data:
    """The training data, made on first use and kept in ``work``."""
    images, table = work / "general.npy", work / "general.json"
    if not table.exists():
        concepts = fetch_emoji(work / "npm")
        pool, captions = compose_many(concepts, GENERAL_IMAGES, seed=0)
        np.save(images, pool)
        table.write_text(
            json.dumps({"captions": captions, "concepts": [concept.name for concept in concepts]})
        )
    text = json.loads(table.read_text())
    photographs = {photograph.name: photograph for photograph in PHOTOGRAPHS}
    planted = []
    for index, plant in enumerate(PLANTS):
        if plant.kind == "VM":
            planted.append(load_photograph(photographs[plant.source])[None])
        else:
            planted.append(
                np.stack(
                    [
                        draw_template(plant.source, np.random.default_rng([1, index, draw]))
                        for draw in range(TEMPLATE_DRAWS)
                    ]
                )
            )
    return Data(np.load(images), tuple(text["captions"]), tuple(text["concepts"]), tuple(planted))


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Images (B, H, W, 3) as floats in [-1, 1], shape (B, 3, H, W)."""
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate: linear warm-up, then a cosine down to 5 %."""

    steps: int
    learning_rate: float = 1e-3
    warm_up: int = 200
    decay: float = 0.998
    """Of the averaged weights."""
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        rise = min(1.0, (step + 1) / self.warm_up)
        fall = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * rise * fall


StepLoss = Callable[[np.random.Generator], tuple[Tensor, Mapping[str, float]]]


def train(
    name: str,
    module: nn.Module,
    loss_of: StepLoss,
    schedule: Schedule,
    work: Path,
    *,
    after_step: Callable[[], None] | None = None,
) -> dict[str, Tensor]:
    """Train ``module`` in place, resuming from ``work/NAME.pt``; returns the averaged weights.

    ``loss_of(rng)`` gives the loss and the parts to log; its randomness must come from ``rng`` (and torch's global one, seeded
    per step), so that a resumed run is the undisturbed one. ``after_step`` runs after every optimiser step.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    averaged = {key: value.detach().clone() for key, value in module.state_dict().items()}
    checkpoint, first = work / f"{name}.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        averaged, first = state["averaged"], state["step"]
        logger.info("%s: resumed at step %d of %d", name, first, schedule.steps)
    logged: dict[str, list[float]] = {}
    saved = began = time.monotonic()
    for step in range(first, schedule.steps):
        torch.manual_seed(schedule.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step)
        loss, parts = loss_of(np.random.default_rng([schedule.seed, step]))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if after_step is not None:
            after_step()
        keep = min(schedule.decay, (step + 1) / (step + 10))
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                averaged[key].lerp_(value, 1 - keep)
        for key, part in parts.items():
            logged.setdefault(key, []).append(part)
        if (step + 1) % 50 == 0:
            means = " ".join(f"{key} {np.nanmean(values):.4f}" for key, values in logged.items())
            logger.info(
                "%s %d/%d %.0fs %s", name, step + 1, schedule.steps, time.monotonic() - began, means
            )
            logged.clear()
        if time.monotonic() - saved > SAVE_SECONDS or step + 1 == schedule.steps:
            partial = checkpoint.with_suffix(".part")
            torch.save(
                {
                    "module": module.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "averaged": averaged,
                    "step": step + 1,
                },
                partial,
            )
            os.replace(partial, checkpoint)
            saved = time.monotonic()
    return averaged
