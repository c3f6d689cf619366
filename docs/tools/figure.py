"""Draw the picture of the README from a finished demo run.

python docs/tools/figure.py demo-run docs/images/before-after.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from unmemorize import Run, testbed
from unmemorize.generation import image_sets, read_images
from unmemorize.localization import read_localizations
from unmemorize.metrics import read_image

PROMPTS = (0, 2, 3, 6, 13, 27)
"""Indices of planted prompts whose images differ well."""
ROWS = {
    "original": "generated",
    "refined": "its neurons off",
    "random-refined": "random neurons off",
}
"""The label of each set of images, below a first row of training images."""


def main(folder: Path, output: Path) -> None:
    run = Run.load(folder)
    localizations = read_localizations(run)
    sets = image_sets(run)
    files = {name: read_images(sets[name]) for name in ROWS}
    labels = ["training image", *ROWS.values()]
    figure = Figure(figsize=(1.5 * len(PROMPTS), 1.55 * len(labels)), layout="constrained")
    axes = figure.subplots(len(labels), len(PROMPTS))
    for column, index in enumerate(PROMPTS):
        paths = [
            testbed.planted()[index].prompt.images[0],
            *(sets[name].folder / files[name][index].files[0] for name in ROWS),
        ]
        for row, path in enumerate(paths):
            axes[row, column].imshow(read_image(path))
            axes[row, column].set(xticks=[], yticks=[])
        count = len(localizations[index].neurons)
        axes[0, column].set_title(f"{count} neuron{'s' * (count != 1)}", fontsize=10)
    for row, label in enumerate(labels):
        axes[row, 0].set_ylabel(label, fontsize=10)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
