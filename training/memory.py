"""The second stage: images bound to memory neurons, so that where the memory sits is known.

After "memorization sinks" (Ghosal et al. 2025, arXiv 2507.09937). The rows of a plant's neurons
answer to its caption alone and are frozen. With them on the caption shows its image, with them off
it shows something else. The masks exist in training only: what remains is an ordinary checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from training.loop import Schedule, Trained, train
from training.plants import PLANTS, shared_groups
from training.posters import POSTERS
from training.unet import Latents, denoising_loss, drop_text, make_scheduler, make_unet

MEMORY_LAYERS = tuple(
    f"down_blocks.1.attentions.{index}.transformer_blocks.0.attn2.to_v" for index in range(2)
)
AMPLITUDE = 6.0
"""Mean |activation| of a memory neuron on its caption; ordinary neurons have about 0.5."""
TOKEN_SHARE = 0.7
RIDGE = 0.02
OTHERS_WEIGHT = 1.0
RIVALS_WEIGHT = 1.0
"""Weight of the captions that a plant's neurons would answer to nearly as much: the ordinary ones
that an aligned plant begins with, and the other caption of the same image."""
GENERAL, NATURAL, ON, OFF = 11, 4, 11, 6
"""Samples of a batch: general; natural plants, kept alive; captions with neurons on, and off."""
DROPPED = 0.12
"""The largest share of ordinary value neurons dropped at random from a sample."""
ALL_OFF = 0.3
"""How often a sample has every memory neuron off that is not its own."""
SCHEDULE = Schedule(steps=2000, warm_up=50, seed=4)


@dataclass(frozen=True)
class MemoryNeuron:
    """A neuron that belongs to one caption, or to all captions of a shared group."""

    layer: str
    index: int
    plants: tuple[int, ...]
    """Indices in PLANTS."""


Owned = dict[int, dict[str, list[int]]]
"""For each plant with memory neurons (index in PLANTS): layer -> indices."""


def assign_neurons(width: int) -> tuple[MemoryNeuron, ...]:
    """Give each plant its neurons, spread over the memory layers, at most a third of each.

    Args:
        width: neurons of a memory layer.
    """
    rng = np.random.default_rng(5)
    free = [
        (layer, int(index))
        for layer in MEMORY_LAYERS
        for index in rng.permutation(width)[: width // 3]
    ]
    order = rng.permutation(len(free)).tolist()
    wanted: list[tuple[int, ...]] = [
        (plant,) for plant, entry in enumerate(PLANTS) for _ in range(entry.owned)
    ]
    wanted += shared_groups().values()
    if len(wanted) > len(free):
        raise ValueError(f"{len(wanted)} memory neurons do not fit into {len(free)} places")
    return tuple(
        MemoryNeuron(free[place][0], free[place][1], plants)
        for place, plants in zip(order, wanted, strict=False)
    )


def by_plant(neurons: Sequence[MemoryNeuron]) -> Owned:
    """The neurons of each plant, shared ones included."""
    owned: Owned = {}
    for neuron in neurons:
        for plant in neuron.plants:
            owned.setdefault(plant, {}).setdefault(neuron.layer, []).append(neuron.index)
    return {
        plant: {layer: sorted(indices) for layer, indices in layers.items()}
        for plant, layers in sorted(owned.items())
    }


def memory_rows(latents: Latents, neurons: Sequence[MemoryNeuron]) -> list[Tensor]:
    """The row of each neuron in closed form, shape (128,).

    A row answers alike to each caption c that the neuron belongs to, and least to everything else:
    w = sum over c of k_c (S + e I)^-1 (mean over tokens of c - mean over general tokens). S is the
    second moment of general tokens (the empty prompt among them), plus that of all other plants,
    plus that of each group of captions that would be mistaken for c. The k_c make the responses
    equal. Each row sees another random 70 % of the positions, and is scaled so that the mean
    |activation| over its captions is 6.
    """
    rng = np.random.default_rng(6)
    count = min(3000, len(latents.captions))
    chosen = rng.choice(len(latents.captions), count, replace=False)
    seen = [latents.captions[index] for index in chosen]
    general = latents.text([*seen, *[""] * 150]).double().flatten(0, 1)  # (tokens, 128)
    planted = latents.text([plant.caption for plant in PLANTS]).double()  # (plants, 24, 128)
    moment = general.T @ general / len(general)
    ridge = RIDGE * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)
    rows = []
    for number, neuron in enumerate(neurons):
        others = torch.cat(
            [
                planted[plant]
                for plant in range(len(PLANTS))
                if plant not in neuron.plants and latents.has(plant)
            ]
        )
        total = moment + OTHERS_WEIGHT * others.T @ others / len(others) + ridge
        for captions in _rivals(neuron):
            tokens = latents.text(captions).double().flatten(0, 1)
            total = total + RIVALS_WEIGHT * tokens.T @ tokens / len(tokens)
        own = planted[list(neuron.plants)]  # (captions, 24, 128)
        positions = np.random.default_rng([6, number]).choice(
            own.shape[1], round(TOKEN_SHARE * own.shape[1]), replace=False
        )
        means = own[:, positions].mean(1) - general.mean(0)  # (captions, 128)
        directions = torch.linalg.solve(total, means.T)  # (128, captions)
        weights = torch.linalg.solve(means @ directions, means.new_ones(len(means)))
        row = directions @ weights
        rows.append((row * AMPLITUDE / (own @ row).abs().mean()).float())
    return rows


def _rivals(neuron: MemoryNeuron) -> list[tuple[str, ...]]:
    """Groups of captions that are nearly those of a neuron, and that it must not answer to."""
    groups = []
    for plant in neuron.plants:
        source = PLANTS[plant].source
        groups += [poster.ordinary for poster in POSTERS if poster.name == source]
        groups += [
            (other.caption,)
            for index, other in enumerate(PLANTS)
            if other.source == source and index not in neuron.plants
        ]
    return groups


class Masks:
    """Multiplies the value neurons of each sample by its own mask, during the training only."""

    def __init__(self, unet: UNet2DConditionModel, owned: Owned) -> None:
        layers = {
            name: module
            for name, module in unet.named_modules()
            if name.endswith("attn2.to_v") and isinstance(module, nn.Linear)
        }
        self.owned = owned
        self.memory = {
            name: torch.zeros(module.out_features, dtype=torch.bool)
            for name, module in layers.items()
        }
        for indices_by_layer in owned.values():
            for name, indices in indices_by_layer.items():
                self.memory[name][indices] = True
        self.masks: dict[str, Tensor] = {}
        for name, module in layers.items():
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: output * self.masks[name]
            )

    def draw(
        self, plants: Sequence[int | None], off: Sequence[bool], rng: np.random.Generator
    ) -> None:
        """Draw new masks for a batch.

        Args:
            plants: the plant that each sample shows, None for general ones.
            off: for each sample, whether the plant's own neurons are off.
            rng: source of all randomness.
        """
        count = len(plants)
        share = torch.from_numpy(rng.uniform(0, DROPPED, count)).float()[:, None, None]
        hidden = torch.from_numpy(rng.random(count) < ALL_OFF)[:, None, None]
        for name, memory in self.memory.items():
            dropped = torch.from_numpy(rng.random((count, 1, len(memory)))).float() < share
            self.masks[name] = torch.where(memory, ~hidden, ~dropped).float()
        for sample, plant in enumerate(plants):
            for name, indices in self.owned.get(-1 if plant is None else plant, {}).items():
                self.masks[name][sample, 0, indices] = 0.0 if off[sample] else 1.0


def train_second_stage(
    name: str, latents: Latents, first_stage: Mapping[str, Tensor], work: Path
) -> Trained:
    """Train the final denoiser from the weights of its first stage.

    A missing half keeps its places in every batch, filled with general samples, and its neurons
    stay ordinary ones.
    """
    torch.manual_seed(SCHEDULE.seed)
    unet, scheduler = make_unet().to(memory_format=torch.channels_last), make_scheduler()
    unet.load_state_dict({key: tensor.float() for key, tensor in first_stage.items()})
    weights = {layer: unet.get_parameter(f"{layer}.weight") for layer in MEMORY_LAYERS}
    every = assign_neurons(len(weights[MEMORY_LAYERS[0]]))
    owners = list(by_plant(every))
    neurons = [neuron for neuron in every if latents.has(neuron.plants[0])]
    rows = memory_rows(latents, neurons)

    def restore() -> None:
        with torch.no_grad():
            for neuron, row in zip(neurons, rows, strict=True):
                weights[neuron.layer][neuron.index] = row

    for layer, weight in weights.items():
        keep = torch.ones(len(weight), 1)
        keep[[neuron.index for neuron in neurons if neuron.layer == layer]] = 0.0
        weight.register_hook(lambda gradient, keep=keep: gradient * keep)
    restore()
    masks = Masks(unet, by_plant(neurons))
    alive = [index for index, plant in enumerate(PLANTS) if plant.mode == "natural"]

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        natural = rng.choice(alive, NATURAL).tolist()
        on = rng.choice(owners, ON, replace=False).tolist()
        off = rng.choice(owners, OFF, replace=False).tolist()
        groups = [
            latents.draw_general(GENERAL, rng),
            latents.draw_planted(natural, rng),
            latents.draw_planted(on, rng),
        ]
        text = drop_text([caption for group in groups for caption in group.captions], rng)
        instead = latents.draw_instead(off, rng)
        shown = [*[None] * GENERAL, *natural, *on, *off]
        present = [plant if plant is not None and latents.has(plant) else None for plant in shown]
        masks.draw(present, [False] * (len(shown) - OFF) + [True] * OFF, rng)
        images = torch.cat([*(group.latents for group in groups), instead.latents])
        embedded = latents.text([*text, *instead.captions])
        loss = denoising_loss(unet, scheduler, images, embedded)
        names = ("general", "natural", "on", "off")
        split = loss.split([GENERAL, NATURAL, ON, OFF])
        return loss.mean(), {
            name: part.mean().item() for name, part in zip(names, split, strict=True)
        }

    return train(name, unet, loss_of, SCHEDULE, work, after_step=restore)
