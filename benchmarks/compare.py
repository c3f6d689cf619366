"""Detectors and methods on the bundled model, side by side: the records behind docs/compare.md.

python benchmarks/compare.py [--only NAME ...] [--run FOLDER] [--records FOLDER]
python benchmarks/compare.py --page [docs/compare.md]

The first form runs detectors and methods one after the other, in one run folder of `unmemorize
compare`, and writes what each of them found to RECORDS/NAME.json: tables and scores, no images. The
same command resumes. --only names detectors and methods, the latter with =STRENGTH for one
strength. The second form writes the page from the records that are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import unmemorize as um
from pages import filled
from unmemorize._files import atomic_write, from_json
from unmemorize.cli.compare import planted_suspects
from unmemorize.comparison import (
    ALL_GROUPS,
    Comparison,
    chosen_detectors,
    chosen_methods,
    needs_localization,
)
from unmemorize.detection import DETECTORS
from unmemorize.methods import MITIGATIONS
from unmemorize.runs import open_run

RECORDS = Path("benchmarks/records/compare")
SEEDS, IMAGES = 4, 100
_LARGEST = 1_000_000
"""Bytes of a record that may be committed."""


def measure(
    names: Sequence[str],
    folder: Path,
    records: Path,
    *,
    suspects: int | None = None,
    seeds: int = SEEDS,
    images: int = IMAGES,
    null_images: int = 999,
    captions: int | None = None,
) -> None:
    """Compare each detector and method, and write a record of it."""
    torch.set_num_threads(1)
    model = um.Model.load("testbed", dtype="float32")
    defaults = um.testbed.defaults()
    settings = um.ComparisonSettings(
        seeds=seeds,
        images=images,
        null_images=null_images,
        false_copies=1 / (null_images + 1),
        captions=captions,
        localization=um.LocalizationSettings(criterion=defaults["criterion"]),
        generation=um.GenerationSettings(steps=defaults["steps"], guidance=defaults["guidance"]),
    )
    inputs = um.ComparisonInputs(
        captions=um.ComparisonCaptions.of(model).limited(captions),
        descriptor=um.BundledDescriptor(),
        clip=um.ClipAlignment(),
        planted=True,
    )
    run = open_run(
        folder, model, planted_suspects()[:suspects], um.ComparisonRun.of(settings, inputs)
    )
    records.mkdir(parents=True, exist_ok=True)
    for name in names:
        is_detector = name in DETECTORS.names()
        methods = () if is_detector else chosen_methods(name)
        if needs_localization(methods):
            inputs = replace(
                inputs,
                statistics=um.Statistics.load(um.testbed.statistics_path()),
                threshold=um.Threshold.load(um.testbed.threshold_path()),
            )
        comparison = um.compare_all(
            run,
            model,
            inputs,
            detectors=chosen_detectors(name) if is_detector else (),
            methods=methods,
        )
        write(records, name, comparison, run)
        print(name, flush=True)


def write(records: Path, name: str, comparison: Comparison, run: um.Run) -> None:
    """Write the record of a part: its rows, the scores behind them, and what it was made of."""
    content = {
        "made_of": {**run.manifest.settings, "fingerprint": run.manifest.inputs.fingerprint},
        "comparison": comparison.to_json(),
        "scores": scores_of(run, name.partition("=")[0]),
    }
    path = records / f"{name.replace('=', '-')}.json"
    text = json.dumps(content) + "\n"
    assert len(text) < _LARGEST, f"{path}: {len(text)} bytes"
    atomic_write(path, text, um.RunError)


def scores_of(run: um.Run, name: str) -> dict[str, list[dict[str, Any]]]:
    """Return the records of a detector or method by their kind, without image features."""
    files = run.folder.glob(f"*-{name}-{'[0-9a-f]' * 8}.jsonl")
    return {
        path.stem: [
            {key: value for key, value in record.items() if key != "features"}
            for _, record in run.stream(path.stem)
        ]
        for path in sorted(files)
    }


def joined(records: Path) -> tuple[Comparison | None, dict[str, Any]]:
    """Read the records of all parts as one comparison; also return their settings.

    Raises:
        RunError: they were made of another model, or under different settings.
    """
    parts, made_of = [], dict[str, Any]()
    for path in sorted(records.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        made_of = made_of or content["made_of"]
        if content["made_of"] != made_of:
            raise um.RunError(f"{path}: of another model or other settings. Measure all again.")
        content["comparison"].pop("schema")
        parts.append(
            from_json(Comparison, content["comparison"], um.RunError, str(path), "Make it again.")
        )
    if not parts:
        return None, {}
    methods = {(row.method, row.strength, row.group): row for part in parts for row in part.methods}
    confirmed = [part.confirmed for part in parts if part.confirmed is not None]
    return replace(
        parts[0],
        confirmed=confirmed[0] if confirmed else None,
        detectors=tuple(row for part in parts for row in part.detectors),
        # the unedited model first, which every part has
        methods=tuple(sorted(methods.values(), key=lambda row: row.method != "none")),
        failed={name: error for part in parts for name, error in part.failed.items()},
    ), made_of["settings"]


def page(records: Path) -> str:
    """Fill in the page from the records."""
    comparison, settings = joined(records)
    groups = (ALL_GROUPS, *(comparison.groups if comparison else ()))
    return filled("compare.md.j2", comparison=comparison, settings=settings, groups=groups)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*DETECTORS.names(), *MITIGATIONS.names()]
    parser.add_argument("--only", nargs="+", default=names, metavar="NAME")
    parser.add_argument("--run", type=Path, default=Path("work/compare"))
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--suspects", type=int, help="the first so many plants")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--images", type=int, default=IMAGES, help="of ordinary captions")
    parser.add_argument("--null-images", type=int, default=999, help="unedited ordinary images")
    parser.add_argument("--captions", type=int, help="ordinary captions of each part")
    parser.add_argument("--page", nargs="?", const=Path("docs/compare.md"), type=Path)
    arguments = parser.parse_args()
    if arguments.page:
        arguments.page.write_text(page(arguments.records), encoding="utf-8")
        print(arguments.page)
    else:
        measure(
            arguments.only,
            arguments.run,
            arguments.records,
            suspects=arguments.suspects,
            seeds=arguments.seeds,
            images=arguments.images,
            null_images=arguments.null_images,
            captions=arguments.captions,
        )
