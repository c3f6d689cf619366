"""What prompts cost by the default detector, and what engines cost, for the page on scale.

python benchmarks/throughput.py [--parts engines work] [--json benchmarks/records/scale.json]

`engines` measures an engine's overhead per unit (1,000 units that do nothing), how long a worker
takes to load, and what a prompt takes before it is worked on. These are seconds of a clock, so
nothing else should run on the machine. `work` counts samples of the denoiser for detection and
localization of the bundled model, as `unmemorize detect` and `localize` do them by default. What
is measured replaces the same in the file and leaves the rest.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import unmemorize as um
from unmemorize.detection import DETECTIONS, DetectionRun, detect_all, read_detections
from unmemorize.engines import Engine, Execution, Finished, InProcess, UnitFunction, Workers
from unmemorize.localization import (
    LOCALIZATIONS,
    LocalizationRun,
    localize_all,
    read_localizations,
)
from unmemorize.runs import Inputs, drive, open_run

UNITS = 1000
DETECTED = 48
EVERY = 4
"""Of the memorized plants, one of so many is localized."""
HASHED = 20_000


@dataclass(frozen=True)
class NothingRun:
    """Settings of a run of `Nothing`."""

    kind: ClassVar[str] = "nothing"


@dataclass(frozen=True)
class Nothing:
    """A task that does nothing."""

    kind: str = "nothing"
    size: int = 1

    def prepare(self, _model: um.Model) -> UnitFunction:
        return _finish


def _finish(items: Sequence[int]) -> list[Finished]:
    return [Finished({"item": item}) for item in items]


@dataclass
class Stopwatch:
    """A progress callback that notes when how many items were done."""

    times: list[tuple[float, int]] = field(default_factory=list)

    def __call__(self, done: int, _total: int | None) -> None:
        self.times.append((time.perf_counter(), done))

    def per_second(self) -> float:
        """Items per second once everybody works, after the first ones."""
        (first, before), (last, after) = self.times[1], self.times[-1]
        return (after - before) / (last - first)


def overhead(model: um.Model, engine: Engine, folder: Path) -> tuple[float, float]:
    """Measure the seconds until the first unit is done, and for each of the others."""
    watch = Stopwatch()
    began = time.perf_counter()
    inputs = Inputs(fingerprint=model.fingerprint)
    run = um.Run.open(folder, NothingRun(), inputs=inputs, model=model.name, items=UNITS)
    execution = Execution(engine=engine, progress=watch)
    drive(run, model, Nothing(), enumerate(range(UNITS)), UNITS, execution)
    return watch.times[1][0] - began, 1 / watch.per_second()


def detection(model: um.Model, folder: Path) -> dict[str, Any]:
    """Measure the default detector on ordinary captions."""
    prompts = [um.Prompt(text) for text in um.testbed.captions("test")[:DETECTED]]
    threshold = um.Threshold.load(um.testbed.threshold_path())
    run = open_run(folder, model, prompts, DetectionRun.of(threshold))
    detect_all(run, model, threshold)
    records = [record for _, _, record in read_detections(run)]
    return {
        "detector": threshold.detect.detector,
        "samples": [record.evaluations for record in records],
        "shared": records[0].shared_evaluations,
        "bytes per record": bytes_of(run, DETECTIONS) / len(prompts),
    }


def localization(model: um.Model, folder: Path) -> dict[str, Any]:
    """Measure localization of memorized prompts, whose weighted samples include detection."""
    plants = [entry.prompt for entry in um.testbed.planted() if entry.mode != "rare"][::EVERY]
    threshold = um.Threshold.load(um.testbed.threshold_path())
    statistics = um.Statistics.load(um.testbed.statistics_path())
    criterion = um.testbed.defaults()["criterion"]
    settings = um.LocalizationSettings(noise=threshold.settings, criterion=criterion)
    run = open_run(
        folder, model, plants, LocalizationRun.of(model, settings, statistics, threshold)
    )
    localize_all(run, model, statistics=statistics, threshold=threshold, settings=settings)
    records = read_localizations(run).values()
    return {
        "samples": [record.work for record in records if record.neurons],
        "bytes per record": bytes_of(run, LOCALIZATIONS) / len(plants),
    }


def bytes_of(run: um.Run, kind: str) -> int:
    return sum(path.stat().st_size for path in run.files(kind))


def seconds_per_prompt(model: um.Model, folder: Path) -> float:
    """Measure reading, hashing and writing a prompt, and looking through its record to resume."""
    threshold = um.Threshold.load(um.testbed.threshold_path())
    prompts = [
        um.Prompt(f"a caption of about the usual length, number {number} of very many")
        for number in range(HASHED)
    ]
    began = time.perf_counter()
    run = open_run(folder, model, prompts, DetectionRun.of(threshold))
    with run.writer(DETECTIONS) as writer:
        writer.append({index: {"prompt": "x", "score": 0.5} for index in range(len(prompts))})
    run.done(DETECTIONS, len(prompts))
    return (time.perf_counter() - began) / len(prompts)


def engine_costs(model: um.Model, folder: Path) -> dict[str, Any]:
    """Measure all engines."""
    engines: dict[str, Engine] = {
        "in process": InProcess(),
        "1 worker": Workers(1),
        "2 workers": Workers(2),
    }
    found: dict[str, Any] = {"overhead": {}, "load": {}}
    for name, engine in engines.items():
        load, per_unit = overhead(model, engine, folder / name)
        found["load"][name], found["overhead"][name] = load, per_unit
    return {**found, "prompt seconds": seconds_per_prompt(model, folder / "hashing")}


def work(model: um.Model, folder: Path) -> dict[str, Any]:
    """Count what prompts take."""
    return {
        "detect": detection(model, folder / "detect"),
        "localize": localization(model, folder / "localize"),
    }


PARTS: dict[str, Callable[[um.Model, Path], dict[str, Any]]] = {
    "engines": engine_costs,
    "work": work,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/records/scale.json"))
    options = parser.parse_args()
    path: Path = options.json
    model = um.Model.load("testbed", dtype="float32")
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            report |= PARTS[part](model, Path(folder) / part)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
