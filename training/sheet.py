"""A contact sheet of the training data: ``python -m training.sheet WORK OUTPUT.jpg``.

Each row shows images of one kind. Once the autoencoder is finished, a row of what it makes of them
follows each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from training.data import Data, Images, load_data
from training.parts import Parts
from training.plants import PLANTS
from training.vae import decode, encode, load_vae
from unmemorize.testbed._layout import SIDE

COLUMNS = 14
GAP, MARGIN = 2, 92


def rows_of(data: Data) -> list[tuple[str, Images]]:
    """Some images of each kind."""
    kinds: dict[str, list[Images]] = {"photographs": [], "templates": [], "posters": []}
    seen = set()
    for draws, plant in zip(data.planted, PLANTS, strict=True):
        kind = "photographs" if plant.kind == "VM" else "templates"
        if plant.source not in seen:
            kinds["posters" if plant.aligned else kind].append(draws[:1])
            seen.add(plant.source)
    renderings = [images[:1] for images in data.renderings.values()]
    return [
        ("general", data.general[:COLUMNS]),
        *((kind, np.concatenate(images)[:COLUMNS]) for kind, images in kinds.items()),
        ("same captions", np.concatenate(renderings)[:COLUMNS]),
        ("never used", data.unused[:COLUMNS]),
    ]


def draw_sheet(rows: Sequence[tuple[str, Images]]) -> Image.Image:
    """A sheet of rows of images, each with its name on the left."""
    step = SIDE + GAP
    sheet = Image.new("RGB", (MARGIN + COLUMNS * step, len(rows) * step), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (name, images) in enumerate(rows):
        pen.text((4, line * step + SIDE // 2 - 6), name, fill="black")
        for column, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (MARGIN + column * step, line * step))
    return sheet


def main() -> None:
    """Write the sheet of a work folder."""
    work, output = Path(sys.argv[1]), Path(sys.argv[2])
    data = load_data(work)
    rows = rows_of(data)
    part = Parts(work).stored("vae")
    if part is not None:
        vae = load_vae(part.weights, data)
        rows = [
            row
            for name, images in rows
            for row in ((name, images), ("decoded", decode(vae, encode(vae, images))))
        ]
    draw_sheet(rows).save(output, quality=90, optimize=True)


if __name__ == "__main__":
    main()
