"""What each rung of the ladders ends, and what it costs: the curve of copies against side effects.

python benchmarks/rungs.py RUN [--spread] [--seeds N] [--ordinary N] [--picture FILE] [--json FILE]

RUN is the folder of a mitigation of the bundled model; it is made as far as it is missing. Every
rung is applied to all confirmed prompts at once, as one edit. For each the script counts copies
over the full generation, and measures alignment with the prompts, and the images of ordinary
captions that change, their alignment and their distance (KID) from unedited images of other noise.
As many random neurons stand beside the neurons. Finished rungs are kept in RUN. With --spread only
the prompts count of which many neurons were found, and the rungs that these climb.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import matplotlib

from bundled_mitigation import BundledMitigation
from unmemorize._files import to_json
from unmemorize.cli._console import show_progress
from unmemorize.engines import Execution
from unmemorize.generation import Edit
from unmemorize.mitigation import Stages
from unmemorize.mitigation._confirmation import search_seeds
from unmemorize.mitigation._control import control_edit
from unmemorize.mitigation._ladders import (
    FINE_TUNING,
    LADDERS,
    SPREAD,
    WEIGHTS,
    Findings,
    Rung,
    joint_edit,
)
from unmemorize.mitigation._mitigate import prepare
from unmemorize.mitigation._ordinary import OrdinaryChange
from unmemorize.mitigation._stages import digest
from unmemorize.mitigation._trained import taught
from unmemorize.mitigation._work import Work

matplotlib.use("Agg")


@dataclass(frozen=True)
class Point:
    """One rung, applied to all prompts at once.

    Attributes:
        name: of the rung.
        family: "neurons", "closed form", "closed form of neurons", "closed form to the guide",
            "both", "fine-tuning" or "random neurons".
        copies, images: copies among the images of all prompts.
        prompts: how many prompts copy at least once, and how many there are.
        alignment: median cosine of the images with their prompts.
        change: of ordinary images.
    """

    name: str
    family: str
    copies: int
    images: int
    prompts: tuple[int, int]
    alignment: float
    change: OrdinaryChange


ALL = tuple(dict.fromkeys(rung for ladder in (*LADDERS.values(), SPREAD) for rung in ladder))
"""The rungs of all ladders."""
OF_SPREAD = (
    Rung("complete"),
    *(Rung(weight=weight) for weight in WEIGHTS),
    *SPREAD[:6],
    *LADDERS[FINE_TUNING],
)
"""What a prompt of which many neurons were found climbs first, and what it would climb else."""


def family(rung: Rung) -> str:
    """Return what a rung edits."""
    if rung.trained:
        return "fine-tuning"
    if rung.reach is not None:
        return "closed form of neurons"
    if rung.guided:
        return "both" if rung.neurons else "closed form to the guide"
    if rung.neurons is None:
        return "closed form"
    return "both" if rung.weight else "neurons"


def edits(
    rungs: Sequence[Rung], findings: Mapping[int, Findings], work: Work
) -> Iterator[tuple[str, str, Edit]]:
    """Yield name, family and joint edit of each rung, and of the control of each scale.

    A prompt without a guide goes to the empty prompt.
    """
    teach, model = partial(taught, work.stages, work.captions), work.stages.model
    for rung in rungs:
        own = {
            index: replace(rung, guided=rung.guided and found.guide is not None)
            for index, found in findings.items()
        }
        edit = joint_edit(own, findings, work.captions.keep, teach)
        if edit is None:
            continue
        yield str(rung), family(rung), edit
        control = control_edit(edit, model)
        if rung.neurons == "complete" and not rung.weight and control is not None:
            yield f"random neurons at {rung.scale:g}", "random neurons", control


def measure(
    work: Work, indices: Sequence[int], named: tuple[str, str], edit: Edit, images: tuple[int, int]
) -> Point:
    """Generate and judge the images of one rung, as far as the run does not have them.

    Args:
        work: the mitigation.
        indices: of the prompts.
        named: name and family of the rung.
        edit: what it makes of the prompts.
        images: of each prompt, and of ordinary captions.
    """
    (name, kind), (seeds, ordinary) = named, images

    def noise(text: str) -> tuple[int, ...]:
        return search_seeds(work.stages, text)[:seeds]

    records = work.judged(name, f"rung-{digest(edit)}", edit, indices, noise, keep="all")
    return Point(
        name,
        kind,
        sum(record.copies for record in records.values()),
        sum(len(record.seeds) for record in records.values()),
        (sum(record.copies > 0 for record in records.values()), len(records)),
        median(cosine for record in records.values() for cosine in record.alignment),
        work.change(edit, ordinary, f"{name}, ordinary"),
    )


def row(point: Point) -> str:
    """Return a row of the table of docs/mitigation.md."""
    change = point.change
    kid = "" if change.kid is None else f"{1000 * change.kid:.2f}"
    return (
        f"| {point.name} | {point.copies} of {point.images} | {point.prompts[0]} of "
        f"{point.prompts[1]} | {point.alignment:.2f} | {change.share:.1%} | "
        f"{change.correlation:.2f} | {change.alignment_after or 0:.2f} | {kid} |"
    )


HEAD = """| rung, for all prompts at once | copies | prompts that copy | alignment | \
ordinary images changed | correlation with before | their alignment | KID x 1000 |
|---|---|---|---|---|---|---|---|"""


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw copy rate against the share of ordinary images that change."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for family, marker in (
        ("random neurons", "x"),
        ("neurons", "o"),
        ("closed form", "s"),
        ("closed form of neurons", "^"),
        ("closed form to the guide", "v"),
        ("both", "D"),
        ("fine-tuning", "P"),
    ):
        some = [point for point in points if point.family == family]
        if not some:
            continue
        places = [(100 * each.change.share, 100 * each.copies / each.images) for each in some]
        axes.plot(*zip(*places, strict=True), marker, markersize=7, label=family)
        for point, place in zip(some, places, strict=True):
            label = point.name.removeprefix("closed form").rpartition("neurons")[2].strip(", ")
            axes.annotate(label, place, (4, 6), textcoords="offset points", fontsize=8, rotation=30)
    axes.set(
        xlabel="ordinary images that change, %",
        ylabel="images that copy, %",
        title="One edit for all memorized prompts: what is left, and what it costs",
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(
    folder: Path, images: tuple[int, int], picture: Path | None, out: Path | None, *, spread: bool
) -> None:
    """Measure every rung with so many images of each prompt and of ordinary captions."""
    opened = BundledMitigation.opened(folder)
    model = opened.model
    stages = Stages(
        opened.run,
        model,
        opened.settings,
        opened.inputs.descriptor,
        opened.inputs.clip,
        Execution(),
        show_progress,
    )
    work, findings = prepare(stages, opened.inputs)
    some = {i: found for i, found in sorted(findings.items()) if found.is_spread or not spread}
    points = []
    print(HEAD)
    for *named, edit in edits(OF_SPREAD if spread else ALL, some, work):
        points.append(measure(work, list(some), (named[0], named[1]), edit, images))
        print(row(points[-1]), flush=True)
        if out is not None:
            out.write_text(json.dumps(to_json(points), indent=1) + "\n", encoding="utf-8")
    if picture is not None:
        draw(points, picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the mitigation")
    parser.add_argument("--spread", action="store_true", help="prompts with many neurons alone")
    parser.add_argument("--seeds", type=int, default=4, help="images of each prompt")
    parser.add_argument("--ordinary", type=int, default=200, help="ordinary images")
    parser.add_argument("--picture", type=Path, help="file for the picture")
    parser.add_argument("--json", type=Path, dest="output", help="file for the numbers")
    arguments = parser.parse_args()
    main(
        arguments.run,
        (arguments.seeds, arguments.ordinary),
        arguments.picture,
        arguments.output,
        spread=arguments.spread,
    )
