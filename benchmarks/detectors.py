"""How well each detector tells what the bundled model has memorized, and what it costs.

python benchmarks/detectors.py [--only NAME ...] [--captions N] [--records FOLDER]

Each detector scores the planted prompts, N calibration captions and N test captions. Its scores are
in FOLDER/NAME.json, written after each few prompts, so the same command resumes. Then one table is
printed over all records there. Levels are the conformal ones of the calibration captions at 1 %.
AUROC and TPR at 1 % FPR are against the test captions, with bootstrap intervals. Plants with memory
neurons were built, and natural ones learned by repetition, so natural ones are also shown apart.
Plants at a fraction of the dose do not count. Milliseconds are those of a card where there is one.

Where plants have halves (trained into different models), or by even and odd index where they have
none, the table is followed by the detector that each half would choose, and what it does to the
other half.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import unmemorize as um
from unmemorize._files import atomic_write
from unmemorize.detection import (
    DETECTORS,
    Trace,
    Weighing,
    as_detector,
    conformal_quantile,
    watched_by,
)
from unmemorize.detection._detector import settings_of
from unmemorize.metrics import auroc, tpr_at_fpr

DEAR = ("curvature", "bright-ending", "score-difference", "attention-entropy")
"""They take a whole run for each prompt, so they come last."""
RATE = 0.01
BATCH = 4
"""Prompts that are scored together."""
SETS = ("planted", "calibration", "test")


@dataclass(frozen=True)
class Plant:
    """What is known of a planted prompt."""

    natural: bool
    half: str


def plants() -> tuple[list[str], list[Plant]]:
    """Return the prompts that were planted at the full dose, and what is known of each."""
    entries = [entry for entry in um.testbed.planted() if entry.mode != "rare"]
    halves = [
        getattr(entry, "half", "even" if i % 2 == 0 else "odd") for i, entry in enumerate(entries)
    ]
    known = [
        Plant(entry.mode == "natural", str(half))
        for entry, half in zip(entries, halves, strict=True)
    ]
    return [entry.prompt.text for entry in entries], known


def measure(model: um.Model, name: str, captions: int, path: Path) -> None:
    """Score all prompts with a detector, those first that its record lacks."""
    detector = as_detector(name)
    settings = {"noise": vars(um.NoiseSettings()), **settings_of(detector)}
    record: dict[str, Any] = {"settings": json.loads(json.dumps(settings)), "seconds": 0.0}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        record = before if before["settings"] == record["settings"] else record
    texts = {
        "planted": plants()[0],
        "calibration": um.testbed.captions("calibration")[:captions],
        "test": um.testbed.captions("test")[:captions],
    }
    for part in SETS:
        scores = record.setdefault(part, [])
        for start in range(len(scores), len(texts[part]), BATCH):
            some = texts[part][start : start + BATCH]
            began = time.perf_counter()
            trace = Trace(model, some, watched=watched_by(detector))
            found = detector.score(trace)
            record["seconds"] += time.perf_counter() - began
            record |= {"samples": found[0].samples, "shared": found[0].shared}
            scores += [[score.value, *score.parts] for score in found]
            atomic_write(path, json.dumps(record) + "\n", um.RunError)


@dataclass(frozen=True)
class Scores:
    """The scores of a detector on all sets of prompts."""

    planted: list[float]
    calibration: list[float]
    test: list[float]

    @classmethod
    def of(cls, name: str, record: dict[str, Any]) -> Scores:
        """Read the scores of a record, fitted as `calibrate_threshold` does it."""
        detector = as_detector(name)
        if not isinstance(detector, Weighing):
            return cls(*([row[0] for row in record[part]] for part in SETS))
        fitting = len(record["calibration"]) // 5
        fitted = detector.fitted([tuple(row[1:]) for row in record["calibration"][:fitting]])
        values = [[fitted.weigh(tuple(row[1:])) for row in record[part]] for part in SETS]
        return cls(values[0], values[1][fitting:], values[2])


def show(records: dict[str, dict[str, Any]]) -> None:
    """Print the table, then what each half would choose."""
    known = plants()[1]
    print(
        "| detector | AUROC | natural plants | TPR at 1 % FPR | natural plants | found at the "
        "level | natural | false alarms | samples | shared | ms |\n" + "|---" * 11 + "|"
    )
    scores = {name: Scores.of(name, record) for name, record in records.items()}
    for name, each in scores.items():
        record, natural = records[name], _those(each.planted, [plant.natural for plant in known])
        tau = conformal_quantile(each.calibration, RATE)
        count = sum(len(record[part]) for part in SETS)
        cells = [
            auroc(each.planted, each.test),
            auroc(natural, each.test),
            tpr_at_fpr(each.planted, each.test),
            tpr_at_fpr(natural, each.test),
            _above(each.planted, tau),
            _above(natural, tau),
            _above(each.test, tau),
            record["samples"],
            record["shared"],
            f"{1000 * record['seconds'] / count:.0f}",
        ]
        print(f"| {name} | {' | '.join(map(str, cells))} |")
    if not hasattr(um.testbed.planted()[0], "half"):
        print("\nThis edition of the bundled model has no halves: plants by even and odd index.")
    for half in sorted({plant.half for plant in known}):
        chosen = max(scores, key=lambda name: _choice(scores[name], known, half))
        others = [plant.half != half for plant in known]
        each = scores[chosen]
        tau = conformal_quantile(each.calibration, RATE)
        rest = _those(each.planted, others)
        both = [plant.half != half and plant.natural for plant in known]
        rest_natural = _those(each.planted, both)
        print(
            f"{half} plants choose {chosen}. On the others: AUROC {auroc(rest, each.test)}, found "
            f"{_above(rest, tau)}, natural {_above(rest_natural, tau)}."
        )


def _choice(scores: Scores, known: Sequence[Plant], half: str) -> float:
    """Return the AUROC of a half of the plants against calibration captions."""
    ours = _those(scores.planted, [plant.half == half for plant in known])
    return auroc(ours, scores.calibration).value


def _those(values: Sequence[float], chosen: Sequence[bool]) -> list[float]:
    return [value for value, wanted in zip(values, chosen, strict=True) if wanted]


def _above(values: Sequence[float], tau: float) -> str:
    return f"{sum(value > tau for value in values)} of {len(values)}"


def main(only: Sequence[str], captions: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = um.Model.load("testbed", dtype="float32")
    for name in only:
        measure(model, name, captions, folder / f"{name}.json")
    paths = [folder / f"{name}.json" for name in DETECTORS.names()]
    show({path.stem: json.loads(path.read_text("utf-8")) for path in paths if path.exists()})


if __name__ == "__main__":
    names = sorted(DETECTORS.names(), key=lambda name: (name in DEAR, name))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--captions", type=int, default=320, help="of each kind")
    parser.add_argument("--records", type=Path, default=Path("benchmarks/records"))
    arguments = parser.parse_args()
    main(arguments.only, arguments.captions, arguments.records)
