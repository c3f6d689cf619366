"""Detectors and methods on the bundled model, side by side: the records behind docs/compare.md.

python benchmarks/compare.py [--only NAME ...] [--seconds N] [--run FOLDER] [--records FOLDER]
python benchmarks/compare.py --page [docs/compare.md]

The first form measures detectors, methods at their default strength, and then the other strengths
of their grids, one part after the other. After each part RECORDS/NAME.json has what is known of the
detector or method: tables and scores, no images. With --seconds no part begins that would not end
in time by the longest one of its method. The same command resumes. --only names detectors and
methods, the latter with =STRENGTH for one strength. Records of several run folders join, also of
fewer plants (--every) or captions (--captions), which each row of the table then counts. The second
form writes the page from the records that are there.

On a GPU, compare_on_a_card.sh runs several of these side by side.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compare_page
import unmemorize as um
from compare_page import RECORDS
from unmemorize._files import atomic_write
from unmemorize.cli.compare import planted_suspects
from unmemorize.comparison import (
    ALL_GROUPS,
    Comparison,
    chosen_detectors,
    chosen_methods,
)
from unmemorize.comparison._once import Once
from unmemorize.detection import DETECTORS
from unmemorize.methods import MITIGATIONS, Mitigation
from unmemorize.runs import open_run

SEEDS, IMAGES = 4, 100
_BATCH = {"cuda": 240}
"""Images at once, where more of them take no longer."""
_LARGEST = 1_000_000
"""Bytes of a record that may be committed."""
_DIGITS = 7
"""Significant digits of the scores of a record."""


@dataclass(frozen=True)
class Part:
    """What is measured at once: a detector, or a method at one strength.

    Args:
        name: as on the command line.
        method: None for a detector.
    """

    name: str
    method: Mitigation | None = None

    def __str__(self) -> str:
        return f"{self.method.name}={self.method.strength:g}" if self.method else self.name


def parts_of(names: Sequence[str]) -> list[Part]:
    """Return the parts in their order: all defaults first, then the grids, method by method."""
    detectors = [Part(name) for name in names if name in DETECTORS.names()]
    others = [name for name in names if name not in DETECTORS.names()]
    defaults = [Part(name, each) for name in others for each in chosen_methods(name, grid=False)]
    grids = [Part(name, each) for name in others for each in chosen_methods(name)]
    return [*detectors, *defaults, *(part for part in grids if part not in defaults)]


def measure(
    names: Sequence[str],
    folder: Path,
    records: Path,
    *,
    seconds: float = float("inf"),
    suspects: int | None = None,
    every: int = 1,
    seeds: int = SEEDS,
    images: int = IMAGES,
    null_images: int = 999,
    captions: int | None = None,
) -> None:
    """Measure each part, and write the record of its detector or method after it."""
    clock = Clock(time.monotonic() + seconds)
    model = um.Model.load("testbed", dtype="float32")
    defaults = um.testbed.defaults()
    settings = um.ComparisonSettings(
        seeds=seeds,
        images=images,
        null_images=null_images,
        false_copies=1 / (null_images + 1),
        captions=captions,
        localization=um.LocalizationSettings(criterion=defaults["criterion"]),
        generation=um.GenerationSettings(
            steps=defaults["steps"],
            guidance=defaults["guidance"],
            batch=_BATCH.get(model.device.type, um.GenerationSettings().batch),
        ),
    )
    inputs = um.ComparisonInputs(
        captions=um.ComparisonCaptions.of(model).limited(captions),
        descriptor=Once(um.BundledDescriptor()),  # once for all parts
        clip=um.ClipAlignment(),
        statistics=um.Statistics.load(um.testbed.statistics_path()),
        threshold=um.Threshold.load(um.testbed.threshold_path()),
        planted=True,
    )
    chosen = planted_suspects()[::every][:suspects]
    run = open_run(folder, model, chosen, um.ComparisonRun.of(settings, inputs))
    records.mkdir(parents=True, exist_ok=True)
    done: dict[str, list[Mitigation]] = {}
    for part in parts_of(names):
        if not clock.has_time(part.name):
            print(f"{part}: not begun, for want of time", flush=True)
            continue
        methods = [*done.get(part.name, []), part.method] if part.method else []
        try:
            with clock.timing(part.name):
                comparison = um.compare_all(
                    run,
                    model,
                    inputs,
                    detectors=() if part.method else chosen_detectors(part.name),
                    methods=methods,
                )
            write(records, part.name, comparison, run)
        except Exception:  # the other parts can still be measured
            print(f"{part}: failed\n{traceback.format_exc()}", flush=True)
            continue
        if methods:
            done[part.name] = methods
        print(f"{part}: {clock.longest[part.name]:.1f} s, {outcome(comparison)}", flush=True)


class Clock:
    """Tells whether there is time for another part.

    Args:
        end: when to stop, by time.monotonic().
    """

    def __init__(self, end: float) -> None:
        self._end = end
        self.longest: dict[str, float] = {}
        """Seconds of the longest part by name."""

    def has_time(self, name: str) -> bool:
        return time.monotonic() + self.longest.get(name, 0.0) < self._end

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        taken = time.monotonic() - began
        self.longest[name] = max(taken, self.longest.get(name, 0.0))


def outcome(comparison: Comparison) -> str:
    """Say in a few words what the last part found."""
    if comparison.failed:
        return f"failed: {comparison.failed}"
    for detector in comparison.detectors:
        return detector.refused or f"AUROC {detector.groups[ALL_GROUPS].auroc}"
    row = comparison.of_group(ALL_GROUPS)[-1]
    copies = f"{row.copies.copies} of {row.copies.seeds} copies"
    return f"{copies}, changed {row.changed} of {row.ordinary}, refused {row.refused} {row.reason}"


def write(records: Path, name: str, comparison: Comparison, run: um.Run) -> None:
    """Write the record of a detector or method: its rows, the scores behind them, and settings."""
    content = {
        "made_of": {**run.manifest.settings, "fingerprint": run.manifest.inputs.fingerprint},
        "comparison": comparison.to_json(),
        "scores": scores_of(run, name.partition("=")[0]),
    }
    path = records / f"{name.replace('=', '-')}.json"
    text = json.dumps(content) + "\n"
    if len(text) >= _LARGEST:
        raise um.RunError(f"{path}: {len(text)} bytes. Commit fewer scores.")
    atomic_write(path, text, um.RunError)


def scores_of(run: um.Run, name: str) -> dict[str, list[Any]]:
    """Return the scores of a detector or method by the kind of its records.

    Those of a detector are lists of value and parts, first of plants, then of the captions of the
    calibration and the test. Those of a method are its records without image features.
    """
    digest = "[0-9a-f]" * 8
    detector = {
        path.stem: [shortened([line["value"], *line["parts"]]) for _, line in run.stream(path.stem)]
        for path in sorted(run.folder.glob(f"detector-{name}-{digest}.jsonl"))
    }
    method = {
        path.stem: [
            shortened({key: value for key, value in line.items() if key != "features"})
            for _, line in run.stream(path.stem)
        ]
        for path in sorted(run.folder.glob(f"method-{name}-{digest}.jsonl"))
    }
    return detector | method


def shortened(value: Any) -> Any:
    """Return a JSON value with fewer digits."""
    if isinstance(value, dict):
        return {key: shortened(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(each) for each in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*DETECTORS.names(), *MITIGATIONS.names()]
    parser.add_argument("--only", nargs="+", default=names, metavar="NAME")
    parser.add_argument("--run", type=Path, default=Path("work/compare"))
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth plant")
    parser.add_argument("--suspects", type=int, help="the first so many of these plants")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--images", type=int, default=IMAGES, help="of ordinary captions")
    parser.add_argument("--null-images", type=int, default=999, help="unedited ordinary images")
    parser.add_argument("--captions", type=int, help="ordinary captions of each part")
    parser.add_argument("--page", nargs="?", const=Path("docs/compare.md"), type=Path)
    arguments = parser.parse_args()
    if arguments.page:
        compare_page.main(arguments.records, arguments.page)
    else:
        measure(
            arguments.only,
            arguments.run,
            arguments.records,
            seconds=arguments.seconds,
            suspects=arguments.suspects,
            every=arguments.every,
            seeds=arguments.seeds,
            images=arguments.images,
            null_images=arguments.null_images,
            captions=arguments.captions,
        )
