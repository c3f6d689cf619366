"""Tables and picture of docs/hardening.md from the records of benchmarks/harden_joint.py.

Call: python benchmarks/harden_joint_page.py [--records FOLDER] [--picture FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from harden_joint import RECORDS
from unmemorize.audit import COPY

Record = dict[str, Any]
ROUNDS = RECORDS.parent / "harden"
"""Records of benchmarks/harden.py, which the picture shows, too."""
UNEDITED = 0.97
"""What L4 reaches on the unedited model (docs/audit.md)."""
FID_ROOM, ALIGNMENT_ROOM, HELD = 1.15, 0.03, 0.9
"""What is required: CLIP-FID relative to before, loss of alignment, share of images that hold."""


def between(scores: Sequence[float]) -> str:
    return f"{median(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})"


def named(record: Record) -> str:
    rate = record["settings"]["rate"]
    return f"{record['choice']}, rate {rate:g}, {len(record['plants'])} plants"


def points(record: Record) -> Iterator[tuple[float, float, int]]:
    """Yield CLIP-FID relative to before, the median that one attack reaches, and the steps.

    At the end, this is the first attack that judges, from the captions. Later ones leave out plants
    that have failed.
    """
    for look in record["looks"]:
        price = look["ordinary"]
        yield (
            price["clip_fid"] / price["clip_fid_before"],
            median(look["attacks"]),
            look["steps"],
        )
    if "ordinary" in record and record.get("trials"):
        price = record["ordinary"]
        scores = record["trials"][0]["scores"]
        yield price["clip_fid"] / price["clip_fid_before"], median(scores), record["steps"]


def of_rounds(path: Path) -> Record:
    """Read a record of benchmarks/harden.py as one that was looked at once, at its end."""
    record: Record = json.loads(path.read_text())
    steps = len(record["rounds"]) * record["settings"]["steps"] * len(record["plants"])
    scores = [score for trial in record["trials"] for score in trial["scores"]]
    look = {"ordinary": record["ordinary"], "attacks": scores, "steps": steps}
    return record | {"choice": f"rounds, {record['choice']}", "looks": [look], "trials": []}


def print_looks(records: Sequence[Record]) -> None:
    """Print what was seen while models were trained."""
    print("| choice | steps | seconds | one attack on each image | above .5 | captions "
          "| CLIP-FID before, after | alignment |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for record in records:
        for look in record["looks"]:
            price, scores = look["ordinary"], look["attacks"]
            spent = next(
                (each["seconds"] for each in record["log"] if each["steps"] == look["steps"]), 0
            )
            print(
                f"| {named(record)} | {look['steps']} | {spent:.0f} | {between(scores)} | "
                f"{sum(score > COPY for score in scores)} of {len(scores)} | "
                f"{between(look['plain'])} | {price['clip_fid_before']:.2f}, "
                f"{price['clip_fid']:.2f} | {price['alignment_before']:.3f}, "
                f"{price['alignment_after']:.3f} |"
            )


def print_judged(records: Sequence[Record]) -> None:
    """Print what the attacks that judge reached, and the price."""
    print(
        "\n| choice | steps | attacks on each | first one, from caption | best of all | "
        "captions | never-trained, best | tau | hold | CLIP-FID before, after | alignment | "
        "changed | required |"
    )
    print(f"|{'---|' * 13}")
    for record in records:
        if "ordinary" not in record:
            continue
        price, trials = record["ordinary"], record.get("trials", [])
        cells = [between(trials[0]["scores"]), between(record["scores"])] if trials else ["", ""]
        hold = f"{record['held']} of {record['judged']}" if trials else "not judged"
        missed = [
            name
            for name, reached in {
                "hold": bool(trials) and record["held"] >= HELD * record["judged"],
                "CLIP-FID": price["clip_fid"] <= FID_ROOM * price["clip_fid_before"],
                "alignment": abs(price["alignment_after"] - price["alignment_before"])
                <= ALIGNMENT_ROOM,
            }.items()
            if not reached
        ]
        print(
            f"| {named(record)} | {record['steps']} | {len(trials)} | {' | '.join(cells)} | "
            f"{between(record['plain'])} | "
            f"{between(record['control_scores']) if trials else ''} | "
            f"{record['tau'] if trials else 0:.2f} | {hold} | {price['clip_fid_before']:.2f}, "
            f"{price['clip_fid']:.2f} | {price['alignment_before']:.3f}, "
            f"{price['alignment_after']:.3f} | {price['changed']} of {price['images']} | "
            f"{'missed: ' + ', '.join(missed) if missed else 'reached'} |"
        )


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw robustness against quality."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    axes.axvline(FID_ROOM, color="0.6", linewidth=1, linestyle="--")
    for record, marker in zip(records, "osD^vPX*<>" * len(records), strict=False):
        across, up, steps = zip(*points(record), strict=True)
        axes.plot(across, up, marker=marker, label=named(record))
        for place in zip(across, up, steps, strict=True):
            axes.annotate(f"{place[2]}", place[:2], fontsize=7, xytext=(5, 3),
                          textcoords="offset points")  # fmt: skip
    axes.plot([1], [UNEDITED], marker="x", color="0.2", linestyle="", label="unedited")
    axes.set_xscale("log")
    axes.set_xticks([1, FID_ROOM, 2, 3, 4, 6, 8], ["1", f"{FID_ROOM}", "2", "3", "4", "6", "8"])
    axes.minorticks_off()
    axes.set_xlabel("CLIP-FID of ordinary images, relative to the unedited model")
    axes.set_ylabel("similarity that attacks reach, median of plants")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    records = [json.loads(path.read_text()) for path in sorted(options.records.glob("*.json"))]
    print_looks(records)
    print_judged(records)
    shown = [of_rounds(path) for path in sorted(ROUNDS.glob("*.json"))]
    shown += [record for record in records if record["looks"]]
    if options.picture:
        draw(shown, options.picture)


if __name__ == "__main__":
    main()
