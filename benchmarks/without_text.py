"""What the bundled model draws without a text: how many of these images are copies of plants.

python benchmarks/without_text.py RUN [--images N] [--workers N]

RUN is the folder of a mitigation of the bundled model, see mitigation.py; it is made as far as it
is missing. The same images are compared with each confirmed plant, at the levels of the run, which
one in a thousand images of ordinary captions exceeds. Intervals are exact, 95 %.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import get_args

import unmemorize as um
from bundled_mitigation import BundledMitigation
from unmemorize.cli._console import show_progress
from unmemorize.metrics import read_image
from unmemorize.mitigation import Part, Stages
from unmemorize.mitigation._certificate import Copies
from unmemorize.mitigation._images import Asked
from unmemorize.mitigation._mitigate import prepare

KIND, AT_ONCE, FIRST_SEED = "without-text", 10, 5_000_000


def main(folder: Path, part: Part, fresh_images: int, images: int, workers: int) -> None:
    """Draw the images, and print how many copy, in all and of the plants that copy most."""
    opened = BundledMitigation.opened(folder, fresh_images, part)
    execution = um.Execution(engine=um.Workers(workers)) if workers > 1 else um.Execution()
    inputs = opened.inputs
    stages = Stages(
        opened.run,
        opened.model,
        opened.settings,
        inputs.descriptor,
        inputs.clip,
        execution,
        show_progress,
    )
    work, findings = prepare(stages, inputs)
    seeds = range(FIRST_SEED, FIRST_SEED + images)
    wanted = [
        Asked(number, "", tuple(seeds[first : first + AT_ONCE]), None)
        for number, first in enumerate(range(0, images, AT_ONCE))
    ]
    # there is nothing that images could be aligned with
    records = replace(stages, clip=None).images("without a text", KIND, None, wanted, keep="all")
    drawn = [
        read_image(opened.run.folder / file) for each in records.values() for file in each.files
    ]
    copies = {}
    for index, found in findings.items():
        test = work.confirmations[index].test
        scores = test.scores(drawn, inputs.descriptor)
        copies[found.text] = Copies(sum(score > test.level for score in scores), len(scores))
    total = sum(each.copies for each in copies.values())
    share = total / (len(copies) * len(drawn))
    print(f"{len(drawn)} images, {len(copies)} plants: {share:.2%} of pairs are copies")
    print(f"{sum(each.copies > 0 for each in copies.values())} plants are drawn at least once")
    print("", "| plant | copies | rate at 95 % |", "|---|---|---|", sep="\n")
    for text, each in sorted(copies.items(), key=lambda pair: -pair[1].copies)[:10]:
        interval = f"{each.lower(0.975):.1%} to {each.upper(0.975):.1%}"
        print(f"| {text} | {each.copies} of {each.seeds} | {interval} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--part", choices=get_args(Part), default="denoiser", help="of the run")
    parser.add_argument("--fresh-images", type=int, default=0, help="of the run")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--workers", type=int, default=1, help="processes that share the work")
    arguments = parser.parse_args()
    main(
        arguments.run,
        arguments.part,
        arguments.fresh_images,
        arguments.images,
        arguments.workers,
    )
