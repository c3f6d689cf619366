"""Tables of docs/audit.md from the records of benchmarks/audit.py.

Call: python benchmarks/audit_page.py [--records FOLDER] [--arms ARM ...] [--picture FILE]

All arms are compared over those attacks that each of them has. Fewer arms may have more in common.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any, cast

import matplotlib
import torch
from matplotlib import pyplot
from torchmetrics.functional.classification import binary_roc

from audit import PARTS, RECORDS
from audit_stage import HALVES
from unmemorize import testbed
from unmemorize.audit._audit import ByArm
from unmemorize.audit._image_first import ease, judged_images
from unmemorize.audit._measures import ImageScores
from unmemorize.audit._settings import COPY, AuditSettings
from unmemorize.audit._survival import TriggerCurve, trigger_curve
from unmemorize.audit._targets import targets_of, units_of
from unmemorize.audit._triggers import first_triggers, levels_at
from unmemorize.audit._verdicts import BudgetVerdict, compared, worded
from unmemorize.metrics import auroc
from unmemorize.runs import StoredImage

Row = dict[str, Any]
ARMS = ("edited", "unedited", "never-trained", "random", "ordinary")
MODES = ("memory", "both", "natural", "rare")

matplotlib.use("Agg")


def rows_of(record: dict[str, Any]) -> list[Row]:
    """Return the rows of a part. Plants that show one image are one, under the first of them."""
    rows = [dict(zip(record["columns"], row, strict=True)) for row in record["rows"]]
    first: dict[tuple[str, int], Any] = {}
    units = units_of_plants()
    numbers = {entry.prompt.text: number for number, entry in enumerate(testbed.planted())}
    for row in rows:
        image = row["image"]
        if row["arm"] == "ordinary" or str(image).startswith("unused"):
            continue
        text = record["plants"][image][3] if isinstance(image, int) else ""
        number = numbers[text] if text else int(image.split()[-1])
        row["image"] = first.setdefault((row["arm"], units[number]), image)
    return rows


@cache
def units_of_plants() -> tuple[int, ...]:
    """Return for each planted image the position of the first plant that shows it."""
    return units_of(targets_of([entry.prompt for entry in testbed.planted()]))


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


def by_attack(record: dict[str, Any], named: Sequence[str] = ARMS) -> Iterator[tuple[str, ByArm]]:
    """Yield each attack of a part with the scores of the named arms."""
    kinds = [kind for kind, *_ in record["plants"]]
    rows = [row for row in rows_of(record) if row["arm"] in named]
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


def print_levels(found: Sequence[tuple[str, ByArm]]) -> None:
    """Print medians, levels and verdicts of all attacks, corrected together."""
    settings = AuditSettings()
    family = [verdict for attack, arms in found for verdict in verdicts_of(attack, arms)]
    tested = [each for each in family if each.attack != "L5"]
    left = iter(worded(tested, settings.alpha, settings.delta))
    print(f"| attack | budget | {' | '.join(ARMS)} | tau | verdict |")
    print(f"|---|---|{'---|' * len(ARMS)}---|---|")
    for verdict in family:
        medians = [verdict.medians.get(cast(Any, arm)) for arm in ARMS]
        shown = " | ".join("" if value is None else f"{value:.2f}" for value in medians)
        tau = "" if verdict.tau is None else f"{verdict.tau:.2f}"
        last = None if verdict.attack == "L5" else next(left)
        words = last.verdict if last else "ceiling"
        print(f"| {verdict.attack} | {verdict.budget} | {shown} | {tau} | {words} |")


def curves_of(arms: ByArm) -> dict[str, TriggerCurve]:
    """Estimate the share of each arm's images that is not triggered yet, by budget."""
    controls, budgets = arms.get("never-trained", ()), arms["edited"][0].budgets
    if not controls:
        return {}
    curves = {}
    for arm, images in arms.items():
        apart = arm == "never-trained"
        first = first_triggers(images, controls, AuditSettings().alpha, apart=apart)
        times = [None if place is None else float(budgets[place]) for place in first.values()]
        curves[str(arm)] = trigger_curve(times, budgets[-1])
    return curves


def print_curves(found: Sequence[tuple[str, ByArm]]) -> None:
    print("\nShare of images that are not triggered yet (Kaplan and Meier):\n")
    for attack, arms in found:
        for arm, curve in curves_of(arms).items():
            steps = zip(curve.budgets, curve.untriggered, strict=True)
            shown = ", ".join(f"{budget:g}: {share:.2f}" for budget, share in steps)
            print(f"| {attack} | {arm} | {shown or 'all'} |")


def print_starts(record: dict[str, Any]) -> None:
    """Print medians over images by where attacks start, in their first repetition."""
    rows = [row for row in rows_of(record) if row["seed"] == 0]
    budgets = sorted({row["budget"] for row in rows})
    print(f"\n| start | arm | {' | '.join(map(str, budgets))} |\n|---|---|{'---|' * len(budgets)}")
    for start in dict.fromkeys(row["start"] for row in rows):
        for arm in ARMS:
            some = [row for row in rows if (row["start"], row["arm"]) == (start, arm)]
            at: list[dict[Any, float]] = [{} for _ in budgets]
            for row in some:
                scores, image = at[budgets.index(row["budget"])], row["image"]
                scores[image] = max(row["median"], scores.get(image, row["median"]))
            if some:
                shown = " | ".join(f"{median(scores.values()):.2f}" for scores in at)
                print(f"| {start} | {arm} | {shown} |")


def repeated(record: dict[str, Any], where: str) -> list[Row]:
    """Return the rows of a model in those repetitions that all of its images have."""
    rows = [row for row in rows_of(record) if row["arm"] == where]
    images = defaultdict(set)
    for row in rows:
        images[row["seed"]].add(row["image"])
    every = set().union(*images.values())
    return [row for row in rows if images[row["seed"]] == every]


def in_twins(record: dict[str, Any]) -> dict[tuple[str, bool], list[ImageScores]]:
    """Return the scores of images in both twins by group, and whether the twin saw them."""
    found: dict[tuple[str, bool], list[ImageScores]] = defaultdict(list)
    for where in HALVES:
        for image in scores_of(repeated(record, where)):
            half, kind, mode, _ = image.prompt.split()
            for group in ("all", "natural" if mode == "natural" else "planted by neurons", kind):
                found[group, half != where].append(image)
    return found


def in_model(record: dict[str, Any]) -> tuple[list[ImageScores], list[ImageScores]]:
    """Return the scores of planted images in the model, and those of unused photographs."""
    main = scores_of(repeated(record, "main"))
    controls = [image for image in main if image.prompt.startswith("unused")]
    return [image for image in main if image not in controls], controls


def eases(images: Iterable[ImageScores]) -> list[float]:
    return [ease(image) for image in images]


def first_copies(images: Sequence[ImageScores]) -> str:
    """Say how many images are copied within each budget."""
    budgets = images[0].budgets
    return ", ".join(
        f"{budget}: {sum(image.scores[place] > COPY for image in images)}"
        for place, budget in enumerate(budgets)
    )


def print_images(record: dict[str, Any]) -> None:
    """Print how well images that were trained on are told from others, and what is found."""
    twins = in_twins(record)
    print(
        "\n| images in the twins | seen | never seen | AUROC | seen that are copied within | ",
        end="",
    )
    print("never seen that are |\n|---|---|---|---|---|---|")
    for group in dict.fromkeys(group for group, _ in twins):
        seen, never = twins[group, True], twins[group, False]
        print(
            f"| {group} | {len(seen)} | {len(never)} | {auroc(eases(seen), eases(never))} | "
            f"{first_copies(seen)} | {first_copies(never)} |"
        )
    images, controls = in_model(record)
    if not controls:
        return
    names = [StoredImage(path="", absolute=image.prompt, sha256="") for image in images]
    result = judged_images(names, images, controls, "photographs", 0.05)
    print(f"\nIn the model: {result.found} of {len(images)} found, {len(controls)} controls,")
    print(f"smallest p {result.smallest_p:.3f}, {result.needed} needed\n")
    print("| mode | found | median p | AUROC | copied within |\n|---|---|---|---|---|")
    for mode in MODES:
        some = [image for image in images if f" {mode} " in image.prompt]
        findings = [result.findings[images.index(image)] for image in some]
        print(
            f"| {mode} | {sum(each.found for each in findings)} of {len(findings)} | "
            f"{median(each.p for each in findings):.3f} | {auroc(eases(some), eases(controls))} | "
            f"{first_copies(some)} |"
        )
    print(f"| unused | {len(controls)} controls | | | {first_copies(controls)} |")


def print_false_triggers(record: dict[str, Any]) -> None:
    """Print how many images of the twins that never saw them exceed the level of other images.

    The level is that of the unused photographs in the model, all in their first repetition.
    """
    seed = record["columns"].index("seed")
    once = {**record, "rows": [row for row in record["rows"] if row[seed] == 0]}
    _, controls = in_model(once)
    never = in_twins(once)["all", False]
    if not controls or not never:
        return
    alpha = AuditSettings().alpha
    fresh = [replace(image, index=index) for index, image in enumerate(never)]
    first = first_triggers(fresh, controls, alpha, apart=False).values()
    print(f"\nLevels of {len(controls)} unused photographs, {len(fresh)} images in twins\n")
    print("| steps | tau | at most | above tau | triggered within |\n|---|---|---|---|---|")
    for place, budget in enumerate(controls[0].budgets):
        level = levels_at(controls, place, alpha)["image"]
        assert level is not None
        above = sum(image.scores[place] > level.tau for image in fresh)
        within = sum(at is not None and at <= place for at in first)
        print(f"| {budget} | {level.tau:.2f} | {level.alpha:.3f} | {above} | {within} |")


def print_costs(records: dict[str, dict[str, Any]]) -> None:
    """Print what each part took: in all, and for an attack from all starts on one image."""
    print("\n| part | units | seconds | per image and repetition | device |\n|---|---|---|---|---|")
    for name, record in records.items():
        seconds = sum(unit["seconds"] for unit in record["units"])
        rows = [dict(zip(record["columns"], row, strict=True)) for row in record["rows"]]
        attacked = {(row["arm"], row["image"], row["seed"]) for row in rows}
        print(
            f"| {name} | {len(record['units'])} | {seconds:.0f} | "
            f"{seconds / len(attacked):.1f} | {record['device']} |"
        )


def draw(arms: ByArm, images: dict[str, Any], path: Path) -> None:
    """Draw the curves of the arms, and how well images are told apart without their captions."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    last = arms["edited"][0].budgets[-1]
    for arm, curve in curves_of(arms).items():
        budgets, shares = (0.0, *curve.budgets, last), (1.0, *curve.untriggered)
        style = "--" if arm == "random" else "-"  # it covers the unedited arm
        left.step(budgets, (*shares, shares[-1]), style, where="post", label=arm, linewidth=2)
    left.set(
        xlabel="attack steps",
        ylabel="share of images not triggered yet",
        title="L4: how soon each arm's images come back",
    )
    planted, controls = in_model(images)
    groups = {"planted by neurons": ("memory", "both"), "natural": ("natural",), "rare": ("rare",)}
    for name, modes in groups.items():
        some = [image for image in planted if image.prompt.split()[2] in modes]
        scores, labels = eases(some) + eases(controls), [1] * len(some) + [0] * len(controls)
        false, true, _ = binary_roc(torch.tensor(scores) / max(scores), torch.tensor(labels))
        label = f"{name}, AUROC {auroc(eases(some), eases(controls))}"
        right.plot(false, true, label=label, linewidth=2, drawstyle="steps-post")
    right.set(
        xlabel=f"false positive rate ({len(controls)} unused photographs)",
        ylabel="true positive rate",
        title="Images without a caption",
    )
    for axes, place in ((left, (0.7, 0.08)), (right, "lower right")):
        axes.set_ylim(-0.03, 1.03)
        axes.legend(frameon=False, fontsize="small", loc=place)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--picture", type=Path, help="file for the picture of curves")
    options = parser.parse_args()
    records = {
        name: json.loads((options.records / f"{name}.json").read_text())
        for name in PARTS
        if (options.records / f"{name}.json").exists()
    }
    levels = [record for name, record in records.items() if name != "images"]
    found = [pair for record in levels for pair in by_attack(record, options.arms)]
    print_levels(found)
    print_curves(found)
    if "L4" in records:
        print_starts(records["L4"])
    if "images" in records:
        print_images(records["images"])
        print_false_triggers(records["images"])
    print_costs(records)
    if options.picture:
        draw(dict(found)["L4"], records["images"], options.picture)


if __name__ == "__main__":
    main()
