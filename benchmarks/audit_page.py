"""Tables of docs/audit.md from the records of benchmarks/audit.py.

Call: python benchmarks/audit_page.py [--records FOLDER]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

from audit import PARTS, RECORDS
from audit_stage import HALVES
from unmemorize.audit._audit import ByArm
from unmemorize.audit._image_first import ease, judged_images
from unmemorize.audit._measures import ImageScores
from unmemorize.audit._settings import AuditSettings
from unmemorize.audit._survival import trigger_curve
from unmemorize.audit._verdicts import BudgetVerdict, compared, levels_at, worded
from unmemorize.metrics import auroc

Row = dict[str, Any]
ARMS = ("edited", "unedited", "never-trained", "random", "ordinary")


def rows_of(record: dict[str, Any]) -> list[Row]:
    return [dict(zip(record["columns"], row, strict=True)) for row in record["rows"]]


def scores_of(rows: Iterable[Row], kinds: Sequence[str] = ()) -> tuple[ImageScores, ...]:
    """Combine attacks on each image: the best over trials and smaller budgets.

    Args:
        rows: of one attack in one arm.
        kinds: of the images by their numbers; templates are compared over their layout.
    """
    by_image: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        by_image[row["image"]].append(row)
    found = []
    for index, (image, some) in enumerate(by_image.items()):
        budgets = tuple(sorted({row["budget"] for row in some}))
        at = [[row for row in some if row["budget"] == budget] for budget in budgets]
        layout = bool(kinds) and some[0]["arm"] != "ordinary" and kinds[image] == "TM"
        found.append(
            ImageScores(
                index=image if isinstance(image, int) else index,
                prompt=str(image),
                measure="layout" if layout else "image",
                budgets=budgets,
                scores=tuple(accumulate((max(row["median"] for row in each) for each in at), max)),
                best=tuple(accumulate((max(row["best"] for row in each) for each in at), max)),
                samples=budgets,
                image="",
            )
        )
    return tuple(found)


def complete(rows: Sequence[Row]) -> list[Row]:
    """Leave out repetitions that some arm lacks, so that all arms had the same attempts."""
    arms = {row["arm"] for row in rows if row["arm"] != "ordinary"}
    have = defaultdict(set)
    for row in rows:
        have[row["image"], row["start"], row["seed"]].add(row["arm"])
    return [
        row
        for row in rows
        if row["arm"] == "ordinary" or have[row["image"], row["start"], row["seed"]] >= arms
    ]


def by_attack(record: dict[str, Any]) -> Iterator[tuple[str, ByArm]]:
    """Yield each attack of a part with the scores of its arms."""
    kinds, rows = [kind for kind, *_ in record["plants"]], rows_of(record)
    for attack in dict.fromkeys(row["attack"] for row in rows):
        own = complete([row for row in rows if row["attack"] == attack])
        arms = {arm: [row for row in own if row["arm"] == arm] for arm in ARMS}
        found = {arm: scores_of(some, kinds) for arm, some in arms.items() if some}
        if "edited" in found:
            yield attack, cast(ByArm, found)


def verdicts_of(attack: str, by_arm: ByArm) -> list[BudgetVerdict]:
    settings = AuditSettings()
    return [
        compared(attack, place, by_arm, paired=True, alpha=settings.alpha, delta=settings.delta)
        for place in range(len(by_arm["edited"][0].budgets))
    ]


def print_levels(records: dict[str, dict[str, Any]]) -> None:
    """Print medians, levels and verdicts of all attacks, corrected together, and curves."""
    settings = AuditSettings()
    found = [pair for record in records.values() for pair in by_attack(record)]
    family = [verdict for attack, arms in found for verdict in verdicts_of(attack, arms)]
    words = worded([each for each in family if each.attack != "L5"], settings.alpha, settings.delta)
    left = iter(words)
    print(f"| attack | budget | {' | '.join(ARMS)} | tau | triggered | verdict |")
    print(f"|---|---|{'---|' * len(ARMS)}---|---|---|")
    for verdict in family:
        medians = [verdict.medians.get(cast(Any, arm)) for arm in ARMS]
        shown = " | ".join("" if value is None else f"{value:.2f}" for value in medians)
        tau = "" if verdict.tau is None else f"{verdict.tau:.2f}"
        last = None if verdict.attack == "L5" else next(left)
        triggered = f"{verdict.triggered} of {verdict.images}" if verdict.images else ""
        print(
            f"| {verdict.attack} | {verdict.budget} | {shown} | {tau} | {triggered} | "
            f"{last.verdict if last else 'ceiling'} |"
        )
    print("\nShare of images that are not triggered yet (Kaplan and Meier):\n")
    for attack, arms in found:
        controls = arms.get("never-trained", ())
        budgets = arms["edited"][0].budgets
        if not controls:
            continue
        ladder = [levels_at(controls, place, settings.alpha) for place in range(len(budgets))]
        for arm, images in arms.items():
            first = [
                image.first_trigger([levels[image.measure] for levels in ladder])
                for image in images
            ]
            times = [None if place is None else float(budgets[place]) for place in first]
            curve = trigger_curve(times, budgets[-1])
            steps = zip(curve.budgets, curve.untriggered, strict=True)
            print(f"| {attack} | {arm} | {', '.join(f'{b:g}: {s:.2f}' for b, s in steps)} |")


def repeated(record: dict[str, Any], where: str) -> list[Row]:
    """Return the rows of a model in those repetitions that all of its images have."""
    rows = [row for row in rows_of(record) if row["arm"] == where]
    images = defaultdict(set)
    for row in rows:
        images[row["seed"]].add(row["image"])
    every = set().union(*images.values())
    return [row for row in rows if images[row["seed"]] == every]


def print_images(record: dict[str, Any]) -> None:
    """Print how well images that were trained on are told from others, and what is found."""
    rows = [row for where in (*HALVES, "main") for row in repeated(record, where)]
    eases: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for where in HALVES:
        for image in scores_of(row for row in rows if row["arm"] == where):
            half, kind, mode, _ = image.prompt.split()
            for group in ("all", "natural" if mode == "natural" else "planted by neurons", kind):
                eases[group, half != where].append(ease(image))
    print("\n| images in the twins | seen | never seen | AUROC |\n|---|---|---|---|")
    for group in dict.fromkeys(group for group, _ in eases):
        seen, never = eases[group, True], eases[group, False]
        print(f"| {group} | {len(seen)} | {len(never)} | {auroc(seen, never)} |")
    main = scores_of(row for row in rows if row["arm"] == "main")
    controls = [image for image in main if image.prompt.startswith("unused")]
    images = [image for image in main if not image.prompt.startswith("unused")]
    if not controls:
        return
    result = judged_images([image.prompt for image in images], images, controls, 0.05)
    print(f"\nIn the model: {result.found} of {len(images)} found, {len(controls)} controls, ")
    print(f"smallest p {result.smallest_p:.3f}, {result.needed} needed")
    for mode in ("memory", "both", "natural", "rare"):
        some = [each for each in result.findings if f" {mode} " in each.file]
        area = auroc(
            [ease(image) for image in images if f" {mode} " in image.prompt],
            [ease(image) for image in controls],
        )
        found = sum(each.found for each in some)
        print(f"| {mode} | {found} of {len(some)} found | AUROC {area} |")


def print_costs(records: dict[str, dict[str, Any]]) -> None:
    print("\n| part | units | seconds | rows | device |\n|---|---|---|---|---|")
    for name, record in records.items():
        seconds = sum(unit["seconds"] for unit in record["units"])
        print(
            f"| {name} | {len(record['units'])} | {seconds:.0f} | {len(record['rows'])} | "
            f"{record['device']} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS)
    folder = parser.parse_args().records
    records = {
        name: json.loads((folder / f"{name}.json").read_text())
        for name in PARTS
        if (folder / f"{name}.json").exists()
    }
    print_levels({name: record for name, record in records.items() if name != "images"})
    if "images" in records:
        print_images(records["images"])
    print_costs(records)


if __name__ == "__main__":
    main()
