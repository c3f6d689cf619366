"""Tables of docs/hardening.md from the records of benchmarks/harden.py.

Call: python benchmarks/harden_page.py [--records FOLDER]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from harden import RECORDS

Record = dict[str, Any]
FID_ROOM, ALIGNMENT_ROOM, HELD = 1.15, 0.03, 0.9
"""What is required: CLIP-FID relative to before, loss of alignment, share of images that hold."""


def between(scores: list[float]) -> str:
    return f"{median(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})"


def print_rounds(records: list[Record]) -> None:
    """Print what the attacks of the training reached, round after round."""
    most = max(len(record["rounds"]) for record in records)
    print(f"| choice | rounds | {' | '.join(f'round {n + 1}' for n in range(most))} | seconds |")
    print(f"|---|---|{'---|' * most}---|")
    for record in records:
        rounds = record["rounds"]
        scores = [between(each["attack_scores"]) for each in rounds] + [""] * (most - len(rounds))
        seconds = [each["attack_seconds"] + each["training_seconds"] for each in rounds]
        print(
            f"| {record['choice']} | {len(rounds)} of {record['settings']['rounds']} | "
            f"{' | '.join(scores)} | {sum(seconds):.0f} |"
        )


def print_judged(records: list[Record]) -> None:
    """Print what the attacks that judge reached from each start, beside never-trained images."""
    starts = list(dict.fromkeys(each["start"] for each in records[0]["trials"]))
    print(
        f"\n| choice | caption itself | {' | '.join(starts)} | never-trained, best | tau | hold |"
    )
    print(f"|---|---|{'---|' * len(starts)}---|---|---|")
    for record in records:
        judged = [
            between(
                [
                    score
                    for trial in record["trials"]
                    if trial["start"] == start
                    for score in trial["scores"]
                ]
            )
            for start in starts
        ]
        print(
            f"| {record['choice']} | {between(record['plain'])} | {' | '.join(judged)} | "
            f"{between(record['control_scores'])} | {record['tau']:.2f} | "
            f"{record['held']} of {record['judged']} |"
        )


def print_price(records: list[Record]) -> None:
    """Print what became of ordinary images, and whether all that is required is reached."""
    print("\n| choice | CLIP-FID before | after | alignment before | after | changed | required |")
    print("|---|---|---|---|---|---|---|")
    for record in records:
        price = record["ordinary"]
        before, after = price["clip_fid_before"], price["clip_fid"]
        aligned = price["alignment_before"], price["alignment_after"]
        missed = [
            name
            for name, reached in {
                "hold": record["held"] >= HELD * record["judged"],
                "CLIP-FID": after <= FID_ROOM * before,
                "alignment": abs(aligned[1] - aligned[0]) <= ALIGNMENT_ROOM,
            }.items()
            if not reached
        ]
        print(
            f"| {record['choice']} | {before:.2f} | {after:.2f} | {aligned[0]:.3f} | "
            f"{aligned[1]:.3f} | {price['changed']} of {price['images']} | "
            f"{'missed: ' + ', '.join(missed) if missed else 'reached'} |"
        )


def print_restored(records: list[Record]) -> None:
    """Print what one attack reaches with layers put back to what they were before."""
    print("\n| choice | put back | share of all weights | caption itself | one attack |")
    print("|---|---|---|---|---|")
    for record in records:
        first = record["trials"][0]  # of the same start and random numbers
        nothing = {"weights": 0.0, "plain": record["plain"], "scores": first["scores"]}
        for group, found in ({"nothing": nothing} | record["restored"]).items():
            print(
                f"| {record['choice']} | {group} | {found['weights']:.0%} | "
                f"{between(found['plain'])} | {between(found['scores'])} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS)
    folder = parser.parse_args().records
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    finished = [record for record in records if record.get("finished")]
    print(f"{len(finished)} of {len(records)} records are finished.\n")
    if finished:
        print_rounds(finished)
        print_judged(finished)
    if some := [record for record in finished if "ordinary" in record]:
        print_price(some)
    if some := [record for record in finished if "restored" in record]:
        print_restored(some)


if __name__ == "__main__":
    main()
