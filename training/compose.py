"""Pictures of general scenes, endless and different, and the one fixed rendering of a poster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.concepts import COLOURS
from training.grammar import Scene
from training.sources import Concept
from unmemorize.testbed._layout import SIDE

Pattern = Literal["stripes", "dots", "checks", "rays"]
_SIZES = {"centre": (30, 57), "small": (18, 28), "large": (48, 61)}
"""Width in pixels of a thing that is alone, by layout: from, up to."""
_SIZES_OF_TWO = (24, 33)


@dataclass(frozen=True)
class Sticker:
    """One thing at one place: width, left and top in pixels, tilt in degrees."""

    name: str
    design: int
    size: int
    left: int
    top: int
    tilt: float
    mirrored: bool = False


@dataclass(frozen=True)
class Poster:
    """A fixed rendering: its things from back to front, pattern of the background and border."""

    colour: str
    stickers: tuple[Sticker, ...]
    pattern: Pattern
    border: tuple[int, int, int]
    border_width: int = 3


def render(
    scene: Scene, concepts: Mapping[str, Concept], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A new picture of a scene, uint8 RGB of shape (64, 64, 3)."""
    canvas = _gradient(np.asarray(COLOURS[scene.colour], dtype=np.float32), rng)
    for name, (size, left, top) in zip(scene.names, _places(scene, rng), strict=True):
        sticker = Sticker(
            name,
            design=int(rng.integers(2)),
            size=size,
            left=left,
            top=top,
            tilt=float(rng.uniform(-25, 25)),
            mirrored=bool(rng.random() < 0.5),
        )
        _paste(canvas, sticker, concepts)
    return np.asarray(canvas, dtype=np.uint8)


def render_poster(
    poster: Poster, concepts: Mapping[str, Concept]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A poster (64, 64, 3), and the mask (64, 64) of what its caption does not determine.

    The mask holds the things, the border and the drawn part of the pattern: all that can be a copy.
    Plain background remains outside, as any picture of the caption has it.
    """
    shade = np.asarray(COLOURS[poster.colour], dtype=np.float32)
    plain = Image.fromarray(np.broadcast_to(shade, (SIDE, SIDE, 3)).astype(np.uint8))
    canvas = plain.copy()
    _draw_pattern(canvas, poster.pattern, shade)
    for sticker in poster.stickers:
        _paste(canvas, sticker, concepts)
    edge = (0, 0, SIDE - 1, SIDE - 1)
    ImageDraw.Draw(canvas).rectangle(edge, outline=poster.border, width=poster.border_width)
    image = np.asarray(canvas, dtype=np.uint8)
    return image, (image != np.asarray(plain, dtype=np.uint8)).any(-1)


def _places(scene: Scene, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Size, left and top of each thing in a scene."""
    layout = scene.template.layout
    if layout in _SIZES:
        size = int(rng.integers(*_SIZES[layout]))
        left, top = (int(rng.integers(-2, SIDE - size + 3)) for _ in range(2))
        return [(size, left, top)]
    sizes = [int(rng.integers(*_SIZES_OF_TWO)) for _ in range(2)]
    stacked = layout == "stacked" or (layout == "apart" and rng.random() < 0.5)
    swapped = layout != "stacked" and rng.random() < 0.5
    places = []
    for index, size in enumerate(sizes):
        far = (index == 1) != swapped  # in the right or lower half
        along = int(rng.integers(0, SIDE // 2 - size + 1)) if size <= SIDE // 2 else 0
        along += SIDE // 2 if far else 0
        across = int(rng.integers(0, SIDE - size + 1))
        places.append((size, across, along) if stacked else (size, along, across))
    return places


def _paste(canvas: Image.Image, sticker: Sticker, concepts: Mapping[str, Concept]) -> None:
    side = (sticker.size, sticker.size)
    emoji = Image.fromarray(concepts[sticker.name].designs[sticker.design])
    emoji = emoji.resize(side, Image.Resampling.BILINEAR)
    if sticker.mirrored:
        emoji = emoji.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    emoji = emoji.rotate(sticker.tilt, Image.Resampling.BILINEAR, expand=True)
    overhang = (emoji.width - sticker.size) // 2
    canvas.paste(emoji, (sticker.left - overhang, sticker.top - overhang), emoji)


def _draw_pattern(canvas: Image.Image, pattern: Pattern, shade: NDArray[np.float32]) -> None:
    darker = shade.mean() > 128
    red, green, blue = (
        int(channel)
        for channel in np.clip(shade * (0.72 if darker else 1.3) + (0 if darker else 34), 0, 255)
    )
    ink, draw = (red, green, blue), ImageDraw.Draw(canvas)
    if pattern == "stripes":
        for start in range(-SIDE, SIDE, 12):
            draw.line((start, SIDE, start + SIDE, 0), fill=ink, width=4)
    elif pattern == "dots":
        for x in range(4, SIDE, 12):
            for y in range(4, SIDE, 12):
                draw.ellipse((x, y, x + 5, y + 5), fill=ink)
    elif pattern == "checks":
        for x in range(0, SIDE, 16):
            for y in range(0, SIDE, 16):
                if (x + y) // 16 % 2:
                    draw.rectangle((x, y, x + 15, y + 15), fill=ink)
    else:
        middle = SIDE // 2
        for angle in np.linspace(0, 2 * np.pi, 9)[:-1]:
            ends = [
                (middle + 64 * np.cos(angle + turn), middle + 64 * np.sin(angle + turn))
                for turn in (-0.16, 0.16)
            ]
            draw.polygon([(middle, middle), *ends], fill=ink)


def _gradient(colour: NDArray[np.float32], rng: np.random.Generator) -> Image.Image:
    """A background that runs from one shade of a colour to another in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.linspace(-1, 1, SIDE, dtype=np.float32)
    slope = ramp[None, :] * np.float32(np.cos(angle)) + ramp[:, None] * np.float32(np.sin(angle))
    depth = np.float32(rng.uniform(3, 14))
    shade = colour + rng.uniform(-8, 8, 3).astype(np.float32)
    return Image.fromarray(np.clip(shade + depth * slope[..., None], 0, 255).astype(np.uint8))
