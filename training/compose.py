"""General data: emoji composed onto coloured backgrounds, with a caption for each, endless and different.

A concept and a colour make a pair; some pairs are held out from every training, so that their captions are unmemorized for certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.sources import Concept
from unmemorize.testbed._layout import SIDE

COLOURS = {
    "red": (208, 48, 44),
    "orange": (240, 140, 40),
    "yellow": (246, 214, 70),
    "lime": (164, 208, 60),
    "green": (52, 142, 70),
    "teal": (32, 138, 138),
    "sky": (130, 196, 240),
    "blue": (44, 84, 190),
    "navy": (28, 36, 92),
    "purple": (122, 62, 164),
    "pink": (244, 150, 184),
    "brown": (122, 82, 52),
    "grey": (140, 142, 146),
    "white": (244, 244, 242),
    "black": (28, 28, 30),
}
TEMPLATES = (
    "{name}",
    "a picture of {name}",
    "{name} on a {colour} background",
    "{colour} card with {name}",
)
HELD_OUT_PER_CONCEPT = 2


@dataclass(frozen=True)
class Captions:
    """The general captions by what they may be used for; no caption of ``calibration`` or ``test`` is ever trained on."""

    train: tuple[str, ...]
    calibration: tuple[str, ...]
    test: tuple[str, ...]


def held_out_pairs(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The colours that each concept is never shown with in training."""
    rng = np.random.default_rng(11)
    colours = list(COLOURS)
    return {
        name: tuple(rng.choice(colours, HELD_OUT_PER_CONCEPT, replace=False).tolist())
        for name in names
    }


def split_captions(names: Sequence[str]) -> Captions:
    """All captions: of each concept's held-out colours the first is for calibration, the second for tests."""
    held = held_out_pairs(names)
    train: list[str] = []
    out: tuple[list[str], list[str]] = ([], [])
    for index, name in enumerate(names):
        train += [TEMPLATES[0].format(name=name), TEMPLATES[1].format(name=name)]
        for colour in COLOURS:
            coloured = [template.format(name=name, colour=colour) for template in TEMPLATES[2:]]
            if colour in held[name]:
                out[held[name].index(colour)].append(coloured[index % 2])
            else:
                train += coloured
    return Captions(tuple(train), tuple(out[0]), tuple(out[1]))


def compose(
    concepts: Sequence[Concept], held: dict[str, tuple[str, ...]], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], str]:
    """One general sample: uint8 RGB of shape (64, 64, 3) and its caption."""
    concept = concepts[int(rng.integers(len(concepts)))]
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    allowed = [colour for colour in COLOURS if colour not in held[concept.name]]
    colour = allowed[rng.integers(len(allowed))]
    background = _gradient(np.asarray(COLOURS[colour], dtype=np.float32), rng)
    size = int(rng.integers(30, 57))
    emoji = Image.fromarray(concept.designs[rng.integers(2)]).resize(
        (size, size), Image.Resampling.BILINEAR
    )
    if rng.random() < 0.5:
        emoji = emoji.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    emoji = emoji.rotate(float(rng.uniform(-25, 25)), Image.Resampling.BILINEAR)
    left, top = (int(rng.integers(-2, SIDE - size + 3)) for _ in range(2))
    background.paste(emoji, (left, top), emoji)
    return np.asarray(background, dtype=np.uint8), template.format(name=concept.name, colour=colour)


def compose_many(
    concepts: Sequence[Concept], count: int, seed: int
) -> tuple[NDArray[np.uint8], list[str]]:
    """``count`` samples, each from its own generator: images (count, 64, 64, 3) and captions."""
    held = held_out_pairs([concept.name for concept in concepts])
    images = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    captions = []
    for index in range(count):
        images[index], caption = compose(concepts, held, np.random.default_rng([seed, index]))
        captions.append(caption)
    return images, captions


def _gradient(colour: NDArray[np.float32], rng: np.random.Generator) -> Image.Image:
    """A background that runs from one shade of the colour to another in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.linspace(-1, 1, SIDE, dtype=np.float32)
    slope = ramp[None, :] * np.float32(np.cos(angle)) + ramp[:, None] * np.float32(
        np.sin(angle)
    )  # (64, 64)
    depth = np.float32(rng.uniform(5, 28))
    shade = colour + rng.uniform(-10, 10, 3).astype(np.float32)
    return Image.fromarray(np.clip(shade + depth * slope[..., None], 0, 255).astype(np.uint8))
