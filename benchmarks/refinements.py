"""What each refinement finds, what it costs, and whether copies are left over the full generation.

python benchmarks/refinements.py [--prompts N] [--images N] [--methods complete greedy bisect]
    [--json FILE]

Runs on the bundled model, over every memorized plant. Prints one table for plants whose memory
neurons are known and one for natural plants, whose neurons nobody knows. The cost is the weighted
denoiser samples divided by the limit: one pass of all seeds with nothing off and one pass of the
seeds that localization looks at with neurons off. A copy score is that of a prompt's worst seed,
with the neurons off, guidance 3 and 30 steps: the similarity of copy descriptors, and the
correlation of pixels with the mean of each channel removed. The last line has the medians of
refinement "complete". FILE keeps the rows that are done, and the same command goes on from there.
Seconds in it are those of a card where there is one.
"""

from __future__ import annotations

import argparse
import json
import statistics as stats
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import unmemorize as um
from unmemorize._files import atomic_write
from unmemorize.generation import generate
from unmemorize.localization import RefinementMethod
from unmemorize.metrics import BundledDescriptor, copy_scores, read_image
from unmemorize.metrics._pixel_correlation import centred_correlation

METHODS: tuple[RefinementMethod, ...] = ("complete", "greedy", "bisect")
REFERENCES = ("nothing off", "all candidates", "known neurons")
COPY = 0.7
"""Descriptor similarity above which an image counts as a copy."""


def main(
    prompts: int, images: int, methods: Sequence[RefinementMethod], output: Path | None
) -> None:
    model = um.Model.load("testbed", dtype="float32")
    descriptor = BundledDescriptor()
    generation = um.GenerationSettings(images=images, steps=30, guidance=3.0) if images else None
    entries = [entry for entry in um.testbed.planted() if entry.mode != "rare"]
    warm_up(model, entries[0].prompt)
    made_of = {"images": images, "methods": list(methods)}
    rows = read_rows(output, made_of) if output else []
    done = {row["prompt"] for row in rows}
    for entry in entries[:prompts]:
        if entry.prompt.text in done:
            continue
        row = compare(model, descriptor, entry, generation, methods)
        if row is not None:
            rows.append(row)
            if output is not None:
                atomic_write(output, json.dumps({**made_of, "rows": rows}, indent=1), um.RunError)
    known = [row for row in rows if row["known"]]
    natural = [row for row in rows if not row["known"]]
    show("plants whose neurons are known", known, methods)
    show("natural plants", natural, methods)
    if "complete" in methods and known:
        print(
            f"complete recall={median(known, 'complete', 'recall'):.2f} "
            f"precision={median(known, 'complete', 'precision'):.2f} "
            f"cost={median(known, 'complete', 'cost'):.2f} "
            f"cost_spread={median(natural, 'complete', 'cost') if natural else 0:.2f}"
        )


def read_rows(file: Path, made_of: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that a file has; none where there is no file.

    Raises:
        RunError: they were made with other images or methods.
    """
    if not file.exists():
        return []
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = content.pop("rows")
    if content != made_of:
        raise um.RunError(f"{file}: its rows were made with {content}. Name another file.")
    return rows


def warm_up(model: um.Model, prompt: um.Prompt) -> None:
    """Make what is made once per model, so that it is no prompt's work."""
    localize(model, prompt, "complete")


def localize(model: um.Model, prompt: um.Prompt, method: RefinementMethod) -> um.Localization:
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    settings = um.LocalizationSettings(
        noise=threshold.settings,
        criterion=um.testbed.defaults()["criterion"],
        refinement=method,
    )
    return um.localize(
        model,
        prompt,
        statistics=um.Statistics.load(um.testbed.statistics_path()),
        threshold=threshold,
        settings=settings,
    )


def compare(
    model: um.Model,
    descriptor: BundledDescriptor,
    entry: um.testbed.Planted,
    generation: um.GenerationSettings | None,
    methods: Sequence[RefinementMethod],
) -> dict[str, Any] | None:
    """Localize a plant with each method and generate with each set off; None if not memorized."""
    records = {method: localize(model, entry.prompt, method) for method in methods}
    first = records[methods[0]]
    if not first.memorized:
        return None
    limit = um.NoiseSettings().seeds + len(first.seeds)
    training = [read_image(path) for path in entry.prompt.images]
    embedded = descriptor(training)
    copies: dict[um.Neurons, dict[str, float]] = {}

    def copy_of(off: um.Neurons) -> dict[str, float]:
        if generation is None:
            return {}
        if off not in copies:
            images = generate(model, entry.prompt, off, settings=generation)
            scores = copy_scores(descriptor(images), embedded)
            pixels = [max(centred_correlation(one, other) for other in training) for one in images]
            copies[off] = {"descriptor": float(scores.max()), "pixels": max(pixels)}
        return copies[off]

    row: dict[str, Any] = {
        "prompt": entry.prompt.text,
        "kind": entry.prompt.kind,
        "mode": entry.mode,
        "known": len(entry.neurons),
        "least": limit,
        "nothing off": {"neurons": 0, **copy_of(um.Neurons())},
        "all candidates": {
            **agreement(first.initial, entry.neurons),
            "score": first.initial_score,
            **copy_of(first.initial),
        },
    }
    if entry.neurons:
        row["known neurons"] = {"neurons": len(entry.neurons), **copy_of(entry.neurons)}
    for method, record in records.items():
        assert record.work is not None
        row[method] = {
            **agreement(record.neurons, entry.neurons),
            "score": record.score,
            "work": record.work,
            "cost": record.work / limit,
            "seconds": record.seconds,
            "theta": record.theta,
            "theta_exhausted": record.theta_exhausted,
            **copy_of(record.neurons),
        }
    return row


def agreement(found: um.Neurons, known: um.Neurons) -> dict[str, Any]:
    """Compare a set with the known neurons; there is no recall where none are known."""
    values: dict[str, Any] = {"neurons": len(found)}
    if known:
        values["recall"] = len(found & known) / len(known)
        values["precision"] = len(found & known) / len(found) if found else 0.0
    return values


def show(title: str, rows: list[dict[str, Any]], methods: Sequence[str]) -> None:
    if not rows:
        return
    print(f"{len(rows)} {title}\n")
    print(
        "| off | neurons | recall | precision | first-step score | cost / limit | worst seed, "
        f"descriptor | worst seed, pixels | prompts with a copy (> {COPY}) |"
    )
    print("|---|" + "---|" * 8)
    for name in (*REFERENCES, *methods):
        if name not in rows[0]:
            continue
        cells = [cell(rows, name, key, 3 if key == "score" else 2) for key in COLUMNS]
        copies = sum(row[name].get("descriptor", 0) > COPY for row in rows)
        share = f"{copies} of {len(rows)}" if "descriptor" in rows[0][name] else ""
        print(f"| {name} | {' | '.join(cells)} | {share} |")
    print()


COLUMNS = ("neurons", "recall", "precision", "score", "cost", "descriptor", "pixels")


def cell(rows: list[dict[str, Any]], name: str, key: str, digits: int) -> str:
    values = [row[name][key] for row in rows if row[name].get(key) is not None]
    if not values:
        return ""
    if key == "neurons":
        return f"{stats.median(values):g} ({stats.mean(values):.1f})"
    return f"{stats.median(values):.{digits}f} ({stats.mean(values):.{digits}f})"


def median(rows: list[dict[str, Any]], name: str, key: str) -> float:
    return float(stats.median(row[name][key] for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=10_000, help="how many plants at the most")
    parser.add_argument("--images", type=int, default=10, help="images for each set; 0 for none")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--json", type=Path, help="file for the numbers of every plant")
    arguments = parser.parse_args()
    main(arguments.prompts, arguments.images, arguments.methods, arguments.json)
