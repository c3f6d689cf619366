"""What one closed-form edit for all plants of the bundled model ends, and what it costs.

python benchmarks/closed_form.py [--seeds N] [--ordinary N] [--json FILE]

All plants of full dose are edited together, and the 1,600 calibration captions are kept. For each
weight the script counts the plants of each kind that still copy in the full generation: the copy
descriptor of their worst seed is more similar to a training image than .7. Then it compares images
of ordinary test captions with those of the unedited model, seed by seed: the correlation of pixels,
the mean of each channel removed, and the similarity of the copy descriptor. docs/method.md
describes the edit. Seconds are those of a card where there is one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

import unmemorize as um
from unmemorize.generation import generate_each
from unmemorize.metrics import BundledDescriptor, copy_scores, read_image
from unmemorize.metrics._pixel_correlation import centred_correlation

WEIGHTS = (1.0, 3.0, 10.0)
COPY = 0.7
"""Descriptor similarity above which an image counts as a copy."""
CHANGED = 0.5
"""Descriptor similarity to before, below which an ordinary image counts as changed."""
SEED = 7
_AT_ONCE = 8
"""Prompts whose images are drawn in one call."""


def main(seeds: int, ordinary: int, output: Path | None) -> None:
    torch.set_num_threads(1)
    model = um.Model.load("testbed", dtype="float32")
    plants = [entry for entry in um.testbed.planted() if entry.mode != "rare"]
    captions = um.testbed.captions("test")[:ordinary]
    unedited = images(model, captions, None, 1)
    rows = [{"weight": 0.0, **copies(model, plants, None, seeds)}]
    show(rows[0])
    for weight in WEIGHTS:
        began = time.perf_counter()
        edit = um.ClosedFormEdit(
            tuple(um.Erased(entry.prompt.text, weight) for entry in plants),
            um.testbed.captions("calibration"),
        )
        edit.changes(model)
        row = {
            "weight": weight,
            "seconds": time.perf_counter() - began,
            **copies(model, plants, edit, seeds),
            **change(unedited, images(model, captions, edit, 1)),
        }
        rows.append(row)
        show(row)
    if output is not None:
        output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def images(
    model: um.Model, prompts: Sequence[str], edit: um.Edit | None, seeds: int
) -> list[list[Image.Image]]:
    """Draw images of prompts, all with the same edit."""
    defaults = um.testbed.defaults()
    settings = um.GenerationSettings(
        images=seeds, seed=SEED, steps=defaults["steps"], guidance=defaults["guidance"]
    )
    drawn: list[list[Image.Image]] = []
    for start in range(0, len(prompts), _AT_ONCE):
        chunk = prompts[start : start + _AT_ONCE]
        drawn += generate_each(model, chunk, [edit] * len(chunk), settings=settings)
    return drawn


def copies(
    model: um.Model, plants: Sequence[um.testbed.Planted], edit: um.Edit | None, seeds: int
) -> dict[str, Any]:
    """Count the plants that still copy, by kind."""
    copied, total = Counter[str](), Counter[str]()
    worst = {}
    descriptor = BundledDescriptor()
    for entry, drawn in zip(
        plants, images(model, [entry.prompt.text for entry in plants], edit, seeds), strict=True
    ):
        training = descriptor([read_image(file) for file in entry.prompt.images])
        highest = float(copy_scores(descriptor(drawn), training).max())
        worst[entry.prompt.text] = highest
        copied[entry.mode] += highest > COPY
        total[entry.mode] += 1
    return {"copied": copied, "plants": total, "worst": worst}


def change(before: list[list[Image.Image]], after: list[list[Image.Image]]) -> dict[str, float]:
    """Compare images of the same captions and seeds."""
    one, other = ([image for drawn in group for image in drawn] for group in (before, after))
    descriptor = BundledDescriptor()
    correlations = [centred_correlation(*pair) for pair in zip(one, other, strict=True)]
    similarities = (descriptor(one) * descriptor(other)).sum(1).tolist()
    return {
        "correlation": median(correlations),
        "worst correlation": min(correlations),
        "similarity": median(similarities),
        "worst similarity": min(similarities),
        "changed": sum(value < CHANGED for value in similarities) / len(similarities),
    }


def show(row: dict[str, Any]) -> None:
    copied = ", ".join(
        f"{row['copied'][mode]} of {count} {mode}" for mode, count in row["plants"].items()
    )
    line = f"weight {row['weight']:g}: {copied} still copy"
    if row["weight"]:
        line += (
            f"; ordinary images: correlation with before {row['correlation']:.2f} "
            f"(worst {row['worst correlation']:.2f}), descriptor similarity "
            f"{row['similarity']:.2f} (worst {row['worst similarity']:.2f}), "
            f"{row['changed']:.0%} below {CHANGED:g}; {row['seconds']:.1f} s to compute"
        )
    print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="images of each plant")
    parser.add_argument("--ordinary", type=int, default=100, help="ordinary captions")
    parser.add_argument("--json", type=Path, dest="output", help="file for the numbers")
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.ordinary, arguments.output)
