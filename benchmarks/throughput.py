"""What engines cost and gain, measured in one run on this machine.

python benchmarks/throughput.py [--json work/throughput.json]

Measures an engine's overhead per unit (1,000 units that do nothing), how long a worker takes to
load, and the throughput of detection and localization on the bundled model: in this process, and
with 1 and 2 workers. All of them work on a card where there is one, which workers then share.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
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
DETECTED, LOCALIZED = 120, 24
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


def detection(
    model: um.Model, engine: Engine, folder: Path, prompts: Sequence[um.Prompt]
) -> dict[str, Any]:
    """Measure the cascade: prompts per second, samples per prompt and bytes per record."""
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    run = open_run(folder, model, prompts, DetectionRun.of(threshold))
    watch = Stopwatch()
    execution = Execution(engine=engine, progress=watch)
    detect_all(run, model, threshold, execution=execution)
    samples = [record.evaluations for _, _, record in read_detections(run)]
    return measured(watch, samples, bytes_of(run, DETECTIONS) / len(prompts))


def localization(
    model: um.Model, engine: Engine, folder: Path, prompts: Sequence[um.Prompt]
) -> dict[str, Any]:
    """Measure localization: prompts per second, weighted samples and bytes per record."""
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    statistics = um.Statistics.load(um.testbed.statistics_path())
    settings = um.LocalizationSettings(noise=threshold.settings, criterion="seeds")
    run_settings = LocalizationRun.of(model, settings, statistics, threshold)
    run = open_run(folder, model, prompts, run_settings)
    watch = Stopwatch()
    localize_all(
        run,
        model,
        statistics=statistics,
        threshold=threshold,
        settings=settings,
        execution=Execution(engine=engine, progress=watch),
    )
    records = read_localizations(run).values()
    samples = [record.work for record in records if record.neurons]
    return measured(watch, samples, bytes_of(run, LOCALIZATIONS) / len(prompts))


def measured(watch: Stopwatch, samples: Sequence[Any], record_bytes: float) -> dict[str, Any]:
    return {
        "per second": watch.per_second(),
        "samples": list(samples),
        "bytes per record": record_bytes,
    }


def bytes_of(run: um.Run, kind: str) -> int:
    return sum(path.stat().st_size for path in run.files(kind))


def seconds_per_prompt(model: um.Model, folder: Path) -> float:
    """Measure reading, hashing and writing a prompt, and looking through its record to resume."""
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("work/throughput.json"))
    path = parser.parse_args().json
    model = um.Model.load("testbed", dtype="float32")
    ordinary = [um.Prompt(text) for text in um.testbed.captions("test")[:DETECTED]]
    planted = [entry.prompt for entry in um.testbed.planted()][:LOCALIZED]
    engines: dict[str, Engine] = {
        "in process": InProcess(),
        "1 worker": Workers(1),
        "2 workers": Workers(2),
    }
    report: dict[str, Any] = {"overhead": {}, "load": {}, "detect": {}, "localize": {}}
    with tempfile.TemporaryDirectory() as folder:
        report["prompt seconds"] = seconds_per_prompt(model, Path(folder) / "hashing")
        for name, engine in engines.items():
            where = Path(folder) / name
            load, per_unit = overhead(model, engine, where / "nothing")
            report["load"][name], report["overhead"][name] = load, per_unit
            report["detect"][name] = detection(model, engine, where / "detect", ordinary)
            report["localize"][name] = localization(model, engine, where / "localize", planted)
            rates = ", ".join(
                f"{step} {report[step][name]['per second']:.2f} prompts/s"
                for step in ("detect", "localize")
            )
            spent = f"overhead {1000 * per_unit:.2f} ms per unit, ready after {load:.1f} s"
            print(f"{name}: {spent}, {rates}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    gains = " ".join(f"{step}={gain(report, step):.2f}" for step in ("detect", "localize"))
    print(f"2 workers / 1 worker: {gains}; {path}")


def gain(report: dict[str, Any], step: str) -> float:
    """How many times as fast two workers are as one."""
    two, one = report[step]["2 workers"], report[step]["1 worker"]
    return float(two["per second"] / one["per second"])


if __name__ == "__main__":
    main()
