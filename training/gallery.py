"""A contact sheet of what the bundled model draws: ``python -m training.gallery OUTPUT.jpg``.

Each row shows captions of one kind, all from the same noise: the training image, what the model
draws, the same with the caption's memory neurons off and with as many random ones off, and what the
twin draws that never saw the image. Twins that are not there yet are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image

import unmemorize as um
from training.data import Images
from training.sheet import COLUMNS, draw_sheet
from unmemorize.metrics import read_image
from unmemorize.neurons import Neurons, random_control
from unmemorize.testbed import Planted
from unmemorize.testbed._check_images import twin_studio
from unmemorize.testbed._findings import Studio
from unmemorize.testbed._planted import Half

SEED = 7
HALVES: tuple[Half, ...] = ("a", "b")


def rows_of(studio: Studio) -> list[tuple[str, Images]]:
    """What the model draws, by kind and by what is off."""
    twins = {half: twin for half in HALVES if (twin := twin_studio(half, studio)) is not None}
    ordinary = um.testbed.captions("test")[:COLUMNS]
    rows = [("general captions", _stack(studio.shoot_each(ordinary)))]
    for kind, name in (("VM", "photographs"), ("TM", "templates"), ("aligned", "posters")):
        for mode in ("memory", "natural"):
            entries = [
                entry for entry in um.testbed.planted() if (entry.kind, entry.mode) == (kind, mode)
            ][:COLUMNS]
            originals = _stack([read_image(entry.prompt.images[0]) for entry in entries])
            rows += [(f"{name}\n{mode}", originals), ("drawn", _drawn([studio], entries))]
            if mode == "memory":
                off = [entry.neurons for entry in entries]
                random = [
                    random_control(neurons, studio.model.widths, seed)
                    for seed, neurons in enumerate(off)
                ]
                rows += [
                    ("neurons off", _drawn([studio], entries, off)),
                    ("random off", _drawn([studio], entries, random)),
                ]
            if len(twins) == len(HALVES):
                rows.append(("by the twin", _drawn([twins[e.half] for e in entries], entries)))
    return rows


def main() -> None:
    """Write the sheet of the bundled model."""
    defaults = um.testbed.defaults()
    settings = um.GenerationSettings(
        images=1, seed=SEED, steps=defaults["steps"], guidance=defaults["guidance"]
    )
    studio = Studio(um.Model.load("testbed"), settings)
    draw_sheet(rows_of(studio)).save(Path(sys.argv[1]), quality=90, optimize=True)


def _drawn(
    studios: Sequence[Studio], entries: Sequence[Planted], off: Sequence[Neurons | None] = (None,)
) -> Images:
    shots = zip(cycle(studios), entries, cycle(off), strict=False)
    return _stack([studio.shoot(entry.prompt.text, gone)[0] for studio, entry, gone in shots])


def _stack(images: Sequence[Image.Image]) -> Images:
    return np.stack([np.asarray(image) for image in images])


if __name__ == "__main__":
    main()
