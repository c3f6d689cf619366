"""Draw the picture of the README from a finished demo run.

python docs/tools/figure.py demo-run docs/images/before-after.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from unmemorize import MitigationResult, Run
from unmemorize.metrics import read_image
from unmemorize.runs import run_prompts

LABELS = ("training image", "generated before", "after the edit")


def main(folder: Path, output: Path) -> None:
    run = Run.load(folder)
    prompts = run_prompts(run)
    outcomes = [each for each in MitigationResult.load(run).outcomes if each.confirmed]
    figure = Figure(figsize=(1.5 * len(outcomes), 1.6 * len(LABELS)), layout="constrained")
    axes = figure.subplots(len(LABELS), len(outcomes), squeeze=False)
    for column, outcome in enumerate(outcomes):
        scores = outcome.scores_after
        worst = max(range(len(scores)), key=scores.__getitem__)  # the seed that copies most
        paths = (
            prompts[outcome.index].images[0],
            run.folder / outcome.files_before[worst],
            run.folder / outcome.files_after[worst],
        )
        for row, path in enumerate(paths):
            axes[row, column].imshow(read_image(path))
            axes[row, column].set(xticks=[], yticks=[])
        axes[0, column].set_title(outcome.status, fontsize=10)
    for row, label in enumerate(LABELS):
        axes[row, 0].set_ylabel(label, fontsize=10)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
