"""What each step costs against the least that its question needs, and the published procedure.

python benchmarks/costs.py LOCALIZATION.json REFINEMENTS.json

The files come from benchmarks/localization.py and benchmarks/refinements.py. Prints a table with
a line for each step and kind of prompt: weighted denoiser samples and seconds as minimum, median
and maximum over prompts. The least is two samples for detection, since one seed has nothing to be
compared with, and for localization one pass of all seeds with nothing off and one pass of the seeds
that localization looks at with neurons off. The last line holds what is to be low: samples of
detection (means), cost / least of localization (medians), and what is to be high: published / ours
of greedy refinement, and the share of its sets that are equal, over prompts with at least 16
candidates. Seconds are those of the device that the files were made on.
"""

from __future__ import annotations

import json
import statistics as stats
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FEW = 16
"""Candidates below which the published procedure makes too few tests to be compared with."""
Rows = list[dict[str, Any]]
HEADER = (
    "| step | kind | prompts | least | samples | cost / least | published | published / ours | "
    "seconds | seconds published |"
)


def main(localization: Path, refinements: Path) -> None:
    measured = json.loads(localization.read_text(encoding="utf-8"))
    complete = json.loads(refinements.read_text(encoding="utf-8"))
    print(HEADER)
    print("|---" * HEADER.count(" | ") + "|---|")
    for kind, rows in by_kind(measured["detection"]["rows"]).items():
        print(detection_line(kind, rows))
    published = {row["prompt"]: row["published"] for row in measured.get("bundled", ())}
    for kind, rows in by_kind(complete).items():
        print(localization_line(kind, rows, published))
    for kind, rows in by_kind(measured.get("bundled", ())).items():
        print(greedy_line(kind, rows))
    print(summary(measured, complete))


def summary(measured: dict[str, Any], complete: Rows) -> str:
    """Return the last line."""
    many = [row for row in measured.get("bundled", ()) if row["candidates"] >= FEW]
    greedy = [row["published"]["weighted"] / row["greedy"]["weighted"] for row in many]
    equal = [float(row["greedy"]["equal"]) for row in many]
    found = measured["detection"]
    spread = {
        known: [r["complete"]["cost"] for r in complete if bool(r["known"]) is known]
        for known in (True, False)
    }
    values = {
        "detect": f"{found['ours']:.2f}",
        "detect_memorized": f"{found['ours memorized']:.2f}",
        "localize_memory": middle(spread[True], 2),
        "localize_spread": middle(spread[False], 2),
        "greedy": middle(greedy, 1),
        "greedy_equal": f"{stats.mean(equal):.3f}" if equal else "none",
    }
    return "costs " + " ".join(f"{name}={value}" for name, value in values.items())


def detection_line(kind: str, rows: Rows) -> str:
    ours, theirs = ([row[name] for row in rows] for name in ("samples", "published"))
    ratio = stats.mean(theirs) / stats.mean(ours)
    return line(
        "detect", kind, len(rows), "2", spread_of(ours), spread_of([value / 2 for value in ours]),
        spread_of(theirs), f"{ratio:.1f}", spread_of([row["seconds"] for row in rows]), "",
    )  # fmt: skip


def localization_line(kind: str, rows: Rows, published: dict[str, dict[str, Any]]) -> str:
    records = [row["complete"] for row in rows]
    theirs = [published[row["prompt"]] for row in rows if row["prompt"] in published]
    ratios = [
        published[row["prompt"]]["weighted"] / row["complete"]["work"]
        for row in rows
        if row["prompt"] in published
    ]
    return line(
        "localize", kind, len(rows), spread_of([row["least"] for row in rows]),
        spread_of([record["work"] for record in records]),
        spread_of([record["cost"] for record in records]),
        spread_of([one["weighted"] for one in theirs]), middle(ratios, 1),
        spread_of([record["seconds"] for record in records]),
        spread_of([one["seconds"] for one in theirs]),
    )  # fmt: skip


def greedy_line(kind: str, rows: Rows) -> str:
    ours, theirs = ([row[name] for row in rows] for name in ("greedy", "published"))
    ratios = [one["weighted"] / other["weighted"] for one, other in zip(theirs, ours, strict=True)]
    return line(
        "greedy", kind, len(rows), "", spread_of([one["weighted"] for one in ours]), "",
        spread_of([one["weighted"] for one in theirs]), middle(ratios, 1),
        spread_of([one["seconds"] for one in ours]), spread_of([one["seconds"] for one in theirs]),
    )  # fmt: skip


def line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def spread_of(values: Sequence[float]) -> str:
    """Return minimum, median and maximum."""
    if not values:
        return ""
    return ", ".join(f"{value:.3g}" for value in (min(values), stats.median(values), max(values)))


def middle(values: Sequence[float], digits: int) -> str:
    return f"{stats.median(values):.{digits}f}" if values else "none"


def by_kind(rows: Sequence[dict[str, Any]]) -> dict[str, Rows]:
    """Group rows by the kind of prompt, which includes how it was planted."""
    groups: dict[str, Rows] = {}
    for row in rows:
        kind = row["kind"] if "mode" not in row else f"{row['kind']} {row['mode']}"
        groups.setdefault(kind, []).append(row)
    return groups


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
