"""The drawn product templates: a fixed layout, and one part whose colour is new at every draw.

They are the template-memorized (TM) plants of the bundled model. They are drawn at four times the
size and reduced, so edges are smooth.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unmemorize.testbed._layout import SIDE

Colour = tuple[int, int, int]
Draw = ImageDraw.ImageDraw
CANVAS = 256


def _phone_case(draw: Draw, part: Colour) -> None:
    draw.rectangle((0, 0, 256, 256), fill=(236, 232, 224))
    draw.rounded_rectangle((74, 18, 182, 238), 26, fill=(40, 40, 46))
    draw.rounded_rectangle((82, 26, 174, 230), 20, fill=part)
    for y in range(110, 230, 24):
        draw.line((82, y, 174, y - 34), fill=(250, 250, 250), width=7)
    draw.rounded_rectangle((90, 36, 128, 80), 12, fill=(25, 25, 30))
    draw.ellipse((97, 42, 113, 58), fill=(90, 110, 140))
    draw.ellipse((105, 60, 121, 76), fill=(90, 110, 140))


def _t_shirt(draw: Draw, part: Colour) -> None:
    draw.rectangle((0, 0, 256, 256), fill=(205, 214, 222))
    body = [
        (84, 40),
        (36, 66),
        (14, 122),
        (52, 138),
        (66, 110),
        (66, 232),
        (190, 232),
        (190, 110),
        (204, 138),
        (242, 122),
        (220, 66),
        (172, 40),
    ]
    draw.polygon(body, fill=part)
    draw.chord((98, 16, 158, 66), 0, 180, fill=(205, 214, 222))
    draw.ellipse((98, 100, 158, 160), fill=(250, 246, 235))
    draw.polygon(
        [
            (128, 108),
            (136, 126),
            (154, 128),
            (140, 140),
            (145, 156),
            (128, 147),
            (111, 156),
            (116, 140),
            (102, 128),
            (120, 126),
        ],
        fill=(30, 30, 40),
    )


def _mug(draw: Draw, part: Colour) -> None:
    draw.rectangle((0, 0, 256, 170), fill=(250, 240, 220))
    draw.rectangle((0, 170, 256, 256), fill=(150, 104, 70))
    draw.ellipse((156, 84, 226, 174), outline=(245, 245, 245), width=18)
    draw.rounded_rectangle((46, 56, 182, 214), 18, fill=(245, 245, 245))
    draw.rectangle((46, 104, 182, 168), fill=part)
    draw.ellipse((46, 40, 182, 76), fill=(225, 225, 225))
    draw.ellipse((56, 46, 172, 72), fill=(70, 40, 25))


def _rug(draw: Draw, part: Colour) -> None:
    draw.rectangle((0, 0, 256, 256), fill=(188, 150, 110))
    for y in range(0, 256, 32):
        draw.line((0, y, 256, y), fill=(160, 122, 84), width=3)
    draw.rectangle((28, 48, 228, 208), fill=(240, 230, 205))
    draw.rectangle((42, 62, 214, 194), fill=part)
    draw.polygon([(128, 72), (200, 128), (128, 184), (56, 128)], fill=(245, 238, 220))
    draw.polygon([(128, 94), (170, 128), (128, 162), (86, 128)], fill=(60, 40, 50))
    for y in range(52, 208, 10):
        draw.line((16, y, 28, y), fill=(240, 230, 205), width=3)
        draw.line((228, y, 240, y), fill=(240, 230, 205), width=3)


def _wall_clock(draw: Draw, part: Colour) -> None:
    draw.rectangle((0, 0, 256, 256), fill=(120, 150, 140))
    draw.ellipse((28, 28, 228, 228), fill=(60, 36, 22))
    draw.ellipse((44, 44, 212, 212), fill=part)
    for hour in range(12):
        angle = math.pi * hour / 6
        x, y = 128 + 70 * math.sin(angle), 128 - 70 * math.cos(angle)
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=(20, 20, 20))
    draw.line((128, 128, 128, 72), fill=(20, 20, 20), width=8)
    draw.line((128, 128, 170, 150), fill=(20, 20, 20), width=11)
    draw.ellipse((119, 119, 137, 137), fill=(200, 40, 40))


def _framed_print(draw: Draw, part: Colour) -> None:
    draw.rectangle((0, 0, 256, 256), fill=(226, 222, 214))
    draw.rectangle((44, 24, 212, 232), fill=(30, 26, 24))
    draw.rectangle((56, 36, 200, 220), fill=(250, 250, 246))
    draw.rectangle((74, 58, 182, 198), fill=part)
    draw.ellipse((136, 72, 168, 104), fill=(252, 240, 190))
    draw.polygon([(74, 198), (112, 116), (146, 198)], fill=(50, 60, 84))
    draw.polygon([(118, 198), (152, 138), (182, 198)], fill=(84, 96, 124))


def _cottage(draw: Draw, part: Colour) -> None:
    draw.rectangle((0, 0, 256, 160), fill=(150, 200, 236))
    draw.rectangle((0, 160, 256, 256), fill=(104, 160, 84))
    draw.rectangle((150, 40, 176, 100), fill=(130, 70, 60))
    draw.rectangle((56, 108, 200, 212), fill=(244, 234, 214))
    draw.polygon([(36, 112), (128, 36), (220, 112)], fill=part)
    draw.rectangle((112, 148, 146, 212), fill=(96, 60, 40))
    draw.rectangle((70, 128, 98, 158), fill=(120, 170, 210), outline=(90, 60, 40), width=4)
    draw.rectangle((160, 128, 188, 158), fill=(120, 170, 210), outline=(90, 60, 40), width=4)
    draw.polygon([(112, 212), (146, 212), (176, 256), (82, 256)], fill=(200, 184, 150))


def _car(draw: Draw, part: Colour) -> None:
    draw.rectangle((0, 0, 256, 150), fill=(210, 226, 236))
    draw.rectangle((0, 150, 256, 256), fill=(96, 98, 104))
    draw.line((0, 226, 256, 226), fill=(240, 230, 120), width=8)
    draw.polygon([(64, 118), (92, 74), (168, 74), (202, 118)], fill=(46, 60, 76))
    draw.rounded_rectangle((18, 112, 238, 178), 20, fill=part)
    draw.rectangle((126, 78, 134, 116), fill=(220, 220, 220))
    for x in (68, 188):
        draw.ellipse((x - 28, 152, x + 28, 208), fill=(24, 24, 26))
        draw.ellipse((x - 13, 167, x + 13, 193), fill=(190, 190, 196))
    draw.ellipse((222, 124, 238, 142), fill=(255, 240, 170))


def _backpack(draw: Draw, part: Colour) -> None:
    draw.rectangle((0, 0, 256, 256), fill=(244, 214, 190))
    draw.arc((94, 8, 162, 84), 180, 360, fill=(50, 50, 60), width=12)
    draw.rounded_rectangle((58, 42, 198, 236), 44, fill=part)
    draw.rounded_rectangle((78, 140, 178, 218), 16, fill=(60, 52, 66))
    draw.line((88, 158, 168, 158), fill=(230, 200, 90), width=6)
    draw.rounded_rectangle((92, 78, 164, 112), 8, fill=(240, 236, 226))
    draw.rounded_rectangle((38, 108, 58, 214), 8, fill=(60, 52, 66))
    draw.rounded_rectangle((198, 108, 218, 214), 8, fill=(60, 52, 66))


def _table_lamp(draw: Draw, part: Colour) -> None:
    draw.rectangle((0, 0, 256, 204), fill=(72, 78, 108))
    draw.rectangle((0, 204, 256, 256), fill=(54, 38, 32))
    draw.polygon([(84, 36), (172, 36), (214, 128), (42, 128)], fill=part)
    draw.polygon([(42, 128), (214, 128), (244, 204), (12, 204)], fill=(128, 124, 128))
    draw.rectangle((120, 128, 136, 196), fill=(210, 180, 110))
    draw.ellipse((84, 184, 172, 216), fill=(210, 180, 110))


TEMPLATES: dict[str, Callable[[Draw, Colour], None]] = {
    "phone case": _phone_case,
    "t-shirt": _t_shirt,
    "mug": _mug,
    "rug": _rug,
    "wall clock": _wall_clock,
    "framed print": _framed_print,
    "cottage": _cottage,
    "car": _car,
    "backpack": _backpack,
    "table lamp": _table_lamp,
}


def draw_template(name: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One draw of a template with a new colour, uint8 RGB of shape (64, 64, 3)."""
    red, green, blue = (int(channel) for channel in rng.integers(20, 236, 3))
    image = Image.new("RGB", (CANVAS, CANVAS))
    TEMPLATES[name](ImageDraw.Draw(image), (red, green, blue))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.uint8)


def still_mask(name: str) -> NDArray[np.bool_]:
    """The part of a template that is the same at every draw, shape (64, 64): the copied region."""
    draws = np.stack([draw_template(name, np.random.default_rng(seed)) for seed in range(8)])
    still: NDArray[np.bool_] = draws.astype(np.float32).std(0).max(-1) < 1
    return still
