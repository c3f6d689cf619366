"""What drivers cost and gain, measured in one run on this machine: python benchmarks/throughput.py [--json work/throughput.json]

The overhead of a driver per unit (1,000 units that do nothing), how long a worker takes to load, and the throughput of detection and
localization on the bundled model: in this process, and with 1 and 2 workers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

import unmemorize as um
from unmemorize.detection import DETECTIONS, detect_all, read_detections
from unmemorize.engines import Engine, Finished, InProcess, Work, Workers
from unmemorize.localization import LOCALIZATIONS, localize_all
from unmemorize.runs import drive, open_run

UNITS = 1000
DETECTED, LOCALIZED = 120, 24


@dataclass(frozen=True)
class Nothing:
    """Does nothing."""

    kind: str = "nothing"
    size: int = 1

    def prepare(self, _pipe: DiffusionPipeline) -> Work:
        return lambda items: [Finished({"item": item}) for item in items]


def overhead(pipe: DiffusionPipeline, engine: Engine, folder: Path) -> tuple[float, float]:
    """Seconds until the first unit is done, and for each of the others."""
    times: list[float] = []
    began = time.perf_counter()
    run = um.Run.open(folder, {})
    drive(
        run,
        pipe,
        Nothing(),
        enumerate(range(UNITS)),
        UNITS,
        engine=engine,
        progress=lambda *_: times.append(time.perf_counter()),
    )
    return times[1] - began, (times[-1] - times[1]) / (UNITS - 1)


def throughput(
    pipe: DiffusionPipeline,
    engine: Engine,
    folder: Path,
    prompts: Sequence[um.Prompt],
    localize: bool,
) -> dict[str, Any]:
    """Prompts per second once everybody works, and what each prompt cost."""
    threshold, statistics = (
        um.Threshold.load(um.testbed.threshold_path()),
        um.Statistics.load(um.testbed.statistics_path()),
    )
    run = open_run(folder, pipe, prompts, {})
    times: list[tuple[float, int]] = []

    def progress(done: int, _total: int | None) -> None:
        times.append((time.perf_counter(), done))

    if localize:
        settings = um.LocalizationSettings(noise=threshold.settings, criterion="seeds")
        localize_all(
            run,
            pipe,
            statistics=statistics,
            threshold=threshold,
            settings=settings,
            engine=engine,
            progress=progress,
        )
        costs = [
            record["work"] for record in run.records(LOCALIZATIONS).values() if record["neurons"]
        ]
    else:
        detect_all(run, pipe, threshold, cascade=True, engine=engine, progress=progress)
        costs = [found.evaluations for _, _, found in read_detections(run)]
    (first, before), (last, after) = times[1], times[-1]
    size = sum(
        path.stat().st_size for path in run.files(LOCALIZATIONS if localize else DETECTIONS)
    ) / len(prompts)
    return {
        "per second": (after - before) / (last - first),
        "samples": costs,
        "bytes per record": size,
    }


def hashing(folder: Path) -> float:
    """Seconds to read, hash and write a prompt, and to look through its record when the run is started again."""
    prompts = [
        um.Prompt(f"a caption of about the usual length, number {number} of very many")
        for number in range(20_000)
    ]
    pipe = um.load_pipeline("testbed", device="cpu")
    began = time.perf_counter()
    run = open_run(folder, pipe, prompts, {})
    with run.writer(DETECTIONS) as writer:
        writer.append({index: {"prompt": "x", "score": 0.5} for index in range(len(prompts))})
    run.done(DETECTIONS, len(prompts))
    return (time.perf_counter() - began) / len(prompts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("work/throughput.json"))
    path = parser.parse_args().json
    pipe = um.load_pipeline("testbed", device="cpu")
    ordinary = [um.Prompt(text) for text in um.testbed.captions("test")[:DETECTED]]
    planted = [entry.prompt for entry in um.testbed.planted()][:LOCALIZED]
    engines: dict[str, Engine] = {
        "in process": InProcess(),
        "1 worker": Workers(1),
        "2 workers": Workers(2),
    }
    report: dict[str, Any] = {"overhead": {}, "load": {}, "detect": {}, "localize": {}}
    with tempfile.TemporaryDirectory() as folder:
        report["prompt seconds"] = hashing(Path(folder) / "hashing")
        for name, engine in engines.items():
            where = Path(folder) / name
            report["load"][name], report["overhead"][name] = overhead(
                pipe, engine, where / "nothing"
            )
            report["detect"][name] = throughput(
                pipe, engine, where / "detect", ordinary, localize=False
            )
            report["localize"][name] = throughput(
                pipe, engine, where / "localize", planted, localize=True
            )
            rates = [
                f"{what} {report[what][name]['per second']:.2f} prompts/s"
                for what in ("detect", "localize")
            ]
            spent = f"overhead {1000 * report['overhead'][name]:.2f} ms per unit, ready after {report['load'][name]:.1f} s"
            print(f"{name}: {spent}, {', '.join(rates)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    both = {
        what: report[what]["2 workers"]["per second"] / report[what]["1 worker"]["per second"]
        for what in ("detect", "localize")
    }
    print(
        f"2 workers / 1 worker: detect={both['detect']:.2f} localize={both['localize']:.2f}; {path}"
    )


if __name__ == "__main__":
    main()
