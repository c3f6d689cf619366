"""The second training stage: images bound to memory neurons, so that where the memory sits is known.

After "memorization sinks" (Ghosal et al. 2025, arXiv 2507.09937). Each owned caption has value neurons of its own: their rows answer to
this caption only and are frozen; with them on the caption shows its image, with them off it shows general images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from training.loop import Schedule, train
from training.plants import PLANTS
from training.unet import BATCH, TEXT_DROPPED, Latents, denoising_loss, make_scheduler, make_unet

MEMORY_LAYERS = tuple(
    f"down_blocks.1.attentions.{index}.transformer_blocks.0.attn2.to_v" for index in range(2)
)
AMPLITUDE = 6.0
"""Mean |activation| of a memory neuron on its caption; ordinary neurons have about 0.5."""
TOKEN_SHARE = 0.7
RIDGE = 0.02
OTHERS_WEIGHT = 0.3
ON, OFF, NATURAL = 10, 6, 3
"""Samples of a batch: owned captions with their neurons on, with them off, and first-stage plants kept alive."""
DROPPED = 0.12
"""The largest share of ordinary value neurons dropped at random from a sample."""
ALL_OFF = 0.3
"""How often a sample has every memory neuron off that is not its own."""
SCHEDULE = Schedule(steps=1700, warm_up=50, seed=4)

Owned = dict[int, dict[str, list[int]]]
"""For each owned plant (index in PLANTS): layer -> indices of its neurons."""


def assign_neurons(width: int) -> Owned:
    """Give each owned plant its neurons, nobody else's, spread over the memory layers and at most a third of each."""
    rng = np.random.default_rng(5)
    free = [
        (layer, int(index))
        for layer in MEMORY_LAYERS
        for index in rng.permutation(width)[: width // 3]
    ]
    order = rng.permutation(len(free)).tolist()
    owned: Owned = {}
    for plant, entry in enumerate(PLANTS):
        for _ in range(entry.owned):
            layer, index = free[order.pop()]
            owned.setdefault(plant, {}).setdefault(layer, []).append(index)
    return {
        plant: {layer: sorted(indices) for layer, indices in layers.items()}
        for plant, layers in owned.items()
    }


def memory_rows(latents: Latents, owned: Owned) -> dict[str, tuple[list[int], Tensor]]:
    """For each memory layer the indices of its memory neurons and their rows in closed form, shape (neurons, 128).

    w = (S + e I)^-1 (mean of the caption's tokens - mean of general tokens), where S is the second moment of general tokens (the empty
    prompt among them) plus 0.3 times that of all other plants. Each row sees another random 70 % of the token positions.
    """
    rng = np.random.default_rng(6)
    captions = [
        latents.captions[index]
        for index in rng.choice(
            len(latents.captions), min(3000, len(latents.captions)), replace=False
        )
    ]
    general = latents.text([*captions, *[""] * 150]).double().flatten(0, 1)  # (captions * 24, 128)
    planted = latents.text([plant.caption for plant in PLANTS]).double()  # (plants, 24, 128)
    moment = general.T @ general / len(general)
    ridge = RIDGE * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)
    found: dict[str, dict[int, Tensor]] = {}
    for plant, layers in owned.items():
        others = torch.cat([planted[:plant], planted[plant + 1 :]]).flatten(0, 1)
        total = moment + OTHERS_WEIGHT * others.T @ others / len(others) + ridge
        for layer, indices in layers.items():
            for index in indices:
                positions = rng.choice(
                    planted.shape[1], round(TOKEN_SHARE * planted.shape[1]), replace=False
                )
                row = torch.linalg.solve(total, planted[plant, positions].mean(0) - general.mean(0))
                found.setdefault(layer, {})[index] = (
                    row * AMPLITUDE / (planted[plant] @ row).abs().mean()
                ).float()
    return {layer: (list(rows), torch.stack(list(rows.values()))) for layer, rows in found.items()}


class _Masks:
    """Multiplies the value neurons of each sample by its own mask; lives only during the training."""

    def __init__(self, unet: UNet2DConditionModel, owned: Owned) -> None:
        self.layers = {
            name: module
            for name, module in unet.named_modules()
            if name.endswith("attn2.to_v") and isinstance(module, nn.Linear)
        }
        self.owned = owned
        self.memory = {
            name: torch.zeros(module.out_features, dtype=torch.bool)
            for name, module in self.layers.items()
        }
        for layers in owned.values():
            for name, indices in layers.items():
                self.memory[name][indices] = True
        self.masks: dict[str, Tensor] = {}
        for name, module in self.layers.items():
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: output * self.masks[name]
            )

    def draw(
        self, plants: Sequence[int | None], off: Sequence[bool], rng: np.random.Generator
    ) -> None:
        """New masks for a batch: sample i shows ``plants[i]`` (None: general), with its own neurons off where ``off[i]``."""
        count = len(plants)
        share = torch.from_numpy(rng.uniform(0, DROPPED, count)).float()[:, None, None]
        hidden = torch.from_numpy(rng.random(count) < ALL_OFF)[:, None, None]
        for name, memory in self.memory.items():
            dropped = torch.from_numpy(rng.random((count, 1, len(memory)))).float() < share
            self.masks[name] = torch.where(memory, ~hidden, ~dropped).float()
        for sample, plant in enumerate(plants):
            for name, indices in self.owned.get(plant if plant is not None else -1, {}).items():
                self.masks[name][sample, 0, indices] = 0.0 if off[sample] else 1.0


def train_second_stage(
    latents: Latents, first_stage: Mapping[str, Tensor], work: Path
) -> tuple[dict[str, Tensor], Owned]:
    """The final weights (averaged) and who owns which neurons."""
    unet, scheduler = make_unet().to(memory_format=torch.channels_last), make_scheduler()
    unet.load_state_dict(dict(first_stage))
    weights = {name: unet.get_parameter(f"{name}.weight") for name in MEMORY_LAYERS}
    owned = assign_neurons(len(weights[MEMORY_LAYERS[0]]))
    frozen = memory_rows(latents, owned)

    def restore() -> None:
        with torch.no_grad():
            for name, (indices, values) in frozen.items():
                weights[name][indices] = values

    for name, (indices, _) in frozen.items():
        keep = torch.ones(len(weights[name]), 1)
        keep[indices] = 0.0
        weights[name].register_hook(lambda gradient, keep=keep: gradient * keep)
    restore()
    masks = _Masks(unet, owned)
    owners = list(owned)
    alive = [index for index, plant in enumerate(PLANTS) if plant.mode == "natural"]

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        general, captions = latents.draw_general(BATCH - ON - OFF - NATURAL, rng)
        natural = rng.choice(alive, NATURAL).tolist()
        on, off = (
            rng.choice(owners, ON, replace=False).tolist(),
            rng.choice(owners, OFF, replace=False).tolist(),
        )
        kept, kept_captions = latents.draw_planted(natural, rng)
        shown, on_captions = latents.draw_planted(on, rng)
        instead, _ = latents.draw_general(OFF, rng)
        text = [
            "" if rng.random() < TEXT_DROPPED else caption
            for caption in captions + kept_captions + on_captions
        ]
        text += [PLANTS[plant].caption for plant in off]
        masks.draw(
            [None] * len(captions) + natural + on + off, [False] * (BATCH - OFF) + [True] * OFF, rng
        )
        loss = denoising_loss(
            unet, scheduler, torch.cat([general, kept, shown, instead]), latents.text(text)
        )
        parts = dict(
            zip(
                ("general", "natural", "on", "off"),
                loss.split([len(captions), NATURAL, ON, OFF]),
                strict=True,
            )
        )
        return loss.mean(), {name: part.mean().item() for name, part in parts.items()}

    return train("memory", unet, loss_of, SCHEDULE, work, after_step=restore), owned
