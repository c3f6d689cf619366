"""Take all memorized captions out of the bundled model, and compare with what is required.

python benchmarks/mitigation.py RUN [--part PART] [--fresh-images N] [--attempts N] [--workers N]
                                [--json FILE]

RUN is the folder of the run, which is made as far as it is missing (about five hours on two slow
cores with one attempt of 110 images; an interrupted run goes on). It is what `unmemorize mitigate`
does at a copy rate of 5 % with all planted captions and their paraphrases. Intervals are exact,
95 %. A second table tells what each stage has spent. The model is on a card where there is one, and
so are the seconds.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import get_args

import unmemorize as um
from bundled_mitigation import BundledMitigation
from mitigation_costs import stage_costs
from unmemorize.cli._console import show_progress
from unmemorize.mitigation import MitigationResult, Part, PromptOutcome, mitigate_all
from unmemorize.mitigation._certificate import Copies, pooled
from unmemorize.mitigation._confirmation import read_confirmations
from unmemorize.mitigation._forecast import seconds_per_sample
from unmemorize.runs import Run
from unmemorize.testbed import Planted

_COSTS = (
    "| stage | images | samples | seconds here | seconds of SD 1.4 on a GPU, computed |",
    "|---|---:|---:|---:|---:|",
)


@dataclass(frozen=True)
class Line:
    """One line of the table: what was measured, what is required of it, and on how many."""

    name: str
    measured: str
    required: str = "–"

    def __str__(self) -> str:
        return f"| {self.name} | {self.measured} | {self.required} |"


def share(part: int, whole: int) -> str:
    """Return a count with the exact 95 % interval of its rate."""
    counts = Copies(part, whole)
    return f"{part} of {whole} ({counts.lower(0.975):.1%} to {counts.upper(0.975):.1%})"


def group(entry: Planted) -> str:
    """Return the kind of a plant and how it was planted."""
    return f"{entry.kind}, {entry.mode}"


def lines(run: Run, result: MitigationResult, entries: Sequence[Planted]) -> list[Line]:
    """Return the table of a finished run, whose suspects are the plants in their order."""
    confirmed = [
        (entry, outcome)
        for entry, outcome in zip(entries, result.outcomes, strict=True)
        if outcome.confirmed
    ]
    removed = [pair for pair in confirmed if pair[1].status == "removed"]
    table = [
        Line("confirmed and removed", share(len(removed), len(confirmed)), "at least 95 %"),
        *(
            Line(f"not removed: {outcome.prompt}", f"{outcome.verdict}, {outcome.rung}")
            for _, outcome in confirmed
            if outcome.status != "removed"
        ),
    ]
    for name in dict.fromkeys(map(group, entries)):
        some = [outcome for entry, outcome in confirmed if group(entry) == name]
        planted = sum(group(entry) == name for entry in entries)
        gone = sum(outcome.status == "removed" for outcome in some)
        rungs = sorted({re.sub(" “.*?”", "", outcome.rung) for outcome in some})
        table.append(
            Line(f"{name}: removed, confirmed, planted", f"{gone}, {len(some)}, {planted}")
        )
        table.append(Line(f"{name}: rungs", "; ".join(rungs) or "none"))
    return table + _copies(run, result, confirmed) + _prices(result, confirmed)


def _copies(
    run: Run, result: MitigationResult, confirmed: Sequence[tuple[Planted, PromptOutcome]]
) -> list[Line]:
    """Tell how many fresh images count as copies, and how close they are beside unedited copies."""
    outcomes = [outcome for _, outcome in confirmed]
    known = read_confirmations(run)
    before = [
        score
        for record in (known[outcome.index] for outcome in outcomes)
        for score in record.scores
        if score > record.level
    ]
    after = [score for outcome in outcomes for score in outcome.scores_left]
    left = f"{median(after):.2f}, {max(after):.2f}" if after else "none"
    unedited = f"{median(before):.2f}, {min(before):.2f}"
    return [
        Line("fresh images that count as copies", share(*_pair(result.after))),
        Line("their score, median and highest", left),
        Line("score of unedited copies, median and lowest", unedited),
    ]


def _prices(
    result: MitigationResult, confirmed: Sequence[tuple[Planted, PromptOutcome]]
) -> list[Line]:
    table = []
    wordings = [outcome for _, outcome in confirmed if outcome.paraphrases_before is not None]
    for when in ("before", "after"):
        counts = [getattr(outcome, f"paraphrases_{when}") for outcome in wordings]
        total = pooled([count for count in counts if count is not None])
        table.append(Line(f"images of paraphrases that copy, {when}", share(*_pair(total))))
    change = result.ordinary
    if change is None:
        return table
    aligned = [
        outcome.alignment_after
        for entry, outcome in confirmed
        if entry.aligned and outcome.alignment_after is not None
    ]
    assert change.alignment_before is not None
    assert change.clip_fid is not None
    assert change.clip_fid_before is not None
    changed = share(change.changed, change.images)
    return [
        *table,
        Line("ordinary images changed", changed, "at most 10 %"),
        Line("their correlation with before", f"{change.correlation:.3f}", ">= 0.9"),
        Line(
            "their CLIP-FID, after / before",
            f"{change.clip_fid / change.clip_fid_before:.3f}",
            "<= 1.1",
        ),
        Line(
            "alignment: ordinary captions before, less aligned plants after",
            f"{change.alignment_before:.3f} - {median(aligned):.3f} = "
            f"{change.alignment_before - median(aligned):.3f}",
            "<= 0.05",
        ),
    ]


def _pair(counts: Copies) -> tuple[int, int]:
    return counts.copies, counts.seeds


def main(
    folder: Path,
    part: Part,
    fresh_images: int,
    attempts: int,
    workers: int,
    output: Path | None,
) -> None:
    """Run the mitigation, or resume it, and print the table."""
    opened = BundledMitigation.opened(folder, fresh_images, part)
    execution = um.Execution(engine=um.Workers(workers)) if workers > 1 else um.Execution()
    result = mitigate_all(
        opened.run,
        opened.model,
        opened.inputs,
        attempts=attempts,
        execution=execution,
        announce=show_progress,
    )
    table = lines(opened.run, result, um.testbed.planted())
    print(result.headline, "", "| | measured | required |", "|---|---|---|", *table, sep="\n")
    costs = list(stage_costs(opened.run))
    second = seconds_per_sample(opened.model, opened.settings.generation.batch)
    print("", f"Per confirmed prompt, of {result.confirmed}:", "", *_COSTS, sep="\n")
    print(*(cost.row(result.confirmed, second) for cost in costs), sep="\n")
    if output is not None:
        content = {
            "lines": [asdict(line) for line in table],
            "costs": [asdict(cost) for cost in costs],
        }
        output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--part", choices=get_args(Part), default="denoiser", help="what is edited")
    parser.add_argument(
        "--fresh-images", type=int, default=0, help="of each prompt and attempt (default: fewest)"
    )
    parser.add_argument("--attempts", type=int, default=4, help="certificates end after so many")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the work")
    parser.add_argument("--json", type=Path, dest="output", help="file for the numbers")
    arguments = parser.parse_args()
    main(
        arguments.run,
        arguments.part,
        arguments.fresh_images,
        arguments.attempts,
        arguments.workers,
        arguments.output,
    )
