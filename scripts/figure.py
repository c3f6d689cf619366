"""The picture of the README, from a finished demo run: python scripts/figure.py demo-run docs/images/before-after.png"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from unmemorize import testbed
from unmemorize.generation import image_sets
from unmemorize.localization import read_localizations
from unmemorize.metrics import read_image
from unmemorize.runs import Run

SHOWN = (0, 2, 3, 6, 13, 27)
TITLES = {
    "original": "generated",
    "refined": "its neurons off",
    "random-refined": "random neurons off",
}


def main(folder: Path, output: Path) -> None:
    run = Run.load(folder)
    found = read_localizations(run)
    columns = ["training image", *TITLES.values()]
    figure = Figure(figsize=(1.5 * len(SHOWN), 1.55 * len(columns)), layout="constrained")
    axes = figure.subplots(len(columns), len(SHOWN))
    for column, index in enumerate(SHOWN):
        images = [read_image(testbed.planted()[index].prompt.images[0])]
        for name in TITLES:
            made = image_sets(run)[name]
            images.append(read_image(made.folder / made.records("images")[index]["files"][0]))
        for row, image in enumerate(images):
            axes[row, column].imshow(image)
            axes[row, column].set(xticks=[], yticks=[])
        count = len(found[index].neurons)
        axes[0, column].set_title(f"{count} neuron{'s' * (count != 1)}", fontsize=10)
    for row, title in enumerate(columns):
        axes[row, 0].set_ylabel(title, fontsize=10)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
