"""How many denoiser samples detection takes, and how many verdicts a cascade changes.

python benchmarks/detection.py [--captions N] [--json FILE]

Detects every plant and N test captions of the bundled model twice, by the cascade of its threshold
and with all seeds. The published procedure takes two samples for each seed.
"""

from __future__ import annotations

import argparse
import json
import statistics as stats
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import unmemorize as um
from unmemorize.detection import Stop, detect_prompts

UNIT = 8
"""Prompts that are detected together, whose first seeds fill a batch."""


def detection(model: um.Model, captions: int | None = None) -> dict[str, Any]:
    """Count samples per prompt of the published procedure and of ours, and verdicts that differ.

    Args:
        model: the bundled model.
        captions: how many test captions are detected, spread over all; all of them by default.
    """
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    plants, texts = um.testbed.planted(), um.testbed.captions("test")
    others = [um.Prompt(text) for text in texts[:: max(1, len(texts) // (captions or len(texts)))]]
    others = others[:captions]
    prompts = [*(entry.prompt for entry in plants), *others]
    whole = detected(model, prompts, threshold, "never")
    early = detected(model, prompts, threshold, "decided")
    kinds = [
        *(f"{entry.prompt.kind} {entry.mode}" for entry in plants),
        *["ordinary"] * len(others),
    ]
    rows: list[dict[str, Any]] = [
        {
            "kind": kind,
            "samples": found.evaluations,
            "published": 2 * reference.evaluations,
            "seconds": found.seconds,
            "differs": found.memorized != reference.memorized,
        }
        for kind, found, reference in zip(kinds, early, whole, strict=True)
    ]
    ordinary = rows[len(plants) :]
    memorized = [row for row in rows[: len(plants)] if not row["kind"].endswith(" rare")]
    differing = [sum(row["differs"] for row in some) for some in (ordinary, memorized, rows)]
    ours, ours_memorized = (
        stats.mean(row["samples"] for row in some) for some in (ordinary, memorized)
    )
    print(
        f"detection: {ours:.2f} samples for {len(ordinary)} ordinary captions and "
        f"{ours_memorized:.2f} for {len(memorized)} memorized prompts; "
        f"{differing[0]} and {differing[1]} verdicts differ from those of all seeds "
        f"({differing[2]} of all {len(rows)} prompts)"
    )
    return {
        "rows": rows,
        "published": stats.mean(row["published"] for row in ordinary),
        "ours": ours,
        "ours memorized": ours_memorized,
        "median": stats.median(row["samples"] for row in ordinary),
        "differing": differing[2],
        "prompts": len(prompts),
        "seeds taken": dict(sorted(Counter(row["samples"] for row in ordinary).items())),
        "tau": threshold.detect.tau,
        "two seeds": [
            found.score for found in detected(model, others, two_seeds(threshold), "decided")
        ],
        "two seeds stop": threshold.detect.cascade.stops[0][1] if threshold.detect.cascade else 0.0,
        "ten seeds": [found.score for found in whole[len(plants) :]],
    }


def default_detection(model: um.Model, captions: int) -> dict[str, Any]:
    """Count samples per prompt of the default detector, and those that all prompts share."""
    threshold = um.Threshold.load(um.testbed.threshold_path())
    plants = [entry.prompt for entry in um.testbed.planted() if entry.mode != "rare"]
    others = [um.Prompt(text) for text in um.testbed.captions("test")[:captions]]
    found = {
        name: detected(model, prompts, threshold, "decided")
        for name, prompts in {"ordinary": others, "memorized": plants}.items()
    }
    return {
        "detector": threshold.detect.detector,
        "shared": found["ordinary"][0].shared_evaluations,
        **{
            name: {
                "prompts": len(some),
                "samples": stats.mean(one.evaluations for one in some),
                "seconds": [one.seconds for one in some],
            }
            for name, some in found.items()
        },
    }


def detected(
    model: um.Model, prompts: Sequence[um.Prompt], threshold: um.Threshold, stop: Stop
) -> list[um.Detection]:
    return [
        found
        for start in range(0, len(prompts), UNIT)
        for found in detect_prompts(
            model, prompts[start : start + UNIT], threshold, threshold.settings, stop=stop
        )
    ]


def two_seeds(threshold: um.Threshold) -> um.Threshold:
    """Make the threshold's cascade stop after its first two seeds, always."""
    assert threshold.detect.cascade is not None
    cascade = replace(threshold.detect.cascade, stops=((2, 1.1),), floor=0.0)
    return replace(threshold, detect=replace(threshold.detect, cascade=cascade))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, help="how many test captions; all by default")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    report = detection(um.Model.load("testbed", dtype="float32"), arguments.captions)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"detection": report}, indent=1), encoding="utf-8")
