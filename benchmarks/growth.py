"""How time and memory of a run grow with the number of prompts, with a simulated denoiser.

python benchmarks/growth.py [--prompts N ...] [--steps STEP ...] [--json FILE]

The denoiser and the text encoder are replaced by random numbers, so what is measured is all that
the package itself does: reading and hashing prompts, records, sums, p-values and tables, on one
core. Statistics have the width of the 16 value layers of Stable Diffusion 1.4. The closed form is
that of the bundled model, whose text encoder does run, with all prompts in one edit. Each step at
each number of prompts is a process of its own. MiB is the most that it takes beyond what it began
with. The model stays on the processor, since processes that are forked cannot use a card. The
report is that of a mitigation of so many memorized prompts, whose records and images of 64 x 64
tests/mitigated_run.py writes beforehand; its row has the megabytes of its page, too. What is
measured replaces the same in the file and leaves the rest.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import unmemorize as um
from localization import peak
from unmemorize.detection import (
    DetectionRun,
    Score,
    detection_of,
    discoveries_of,
    write_detections_csv,
)

PROMPTS = (10**2, 10**3, 10**4, 10**5)
WIDTHS = [320] * 5 + [640] * 5 + [1280] * 6
"""Features of the value layers of Stable Diffusion 1.4."""
MEMORIZED = 0.01
"""The share of prompts that score like memorized ones."""


def prompts(count: int) -> Iterator[um.Prompt]:
    return (um.Prompt(f"a caption of usual length, number {number}") for number in range(count))


def simulated_detections(
    _model: um.Model, some: Sequence[um.Prompt], *_: object, **__: object
) -> list[um.Detection]:
    """Score prompts at random in place of a denoiser."""
    rng = np.random.default_rng(list(some[0].text.encode()))
    scores = rng.normal(0.37, 0.07, len(some)) + 0.4 * (rng.random(len(some)) < MEMORIZED)
    return [
        detection_of(prompt, Score(value=float(score), samples=2, seeds=(0, 1)), 0.6, 0.0)
        for prompt, score in zip(some, scores, strict=True)
    ]


def simulated_activations(*_: object) -> dict[str, torch.Tensor]:
    """Return the activations of a batch of 64 at random in place of a text encoder."""
    return {f"layer{place}": torch.rand(64, width) for place, width in enumerate(WIDTHS)}


def statistics(model: um.Model, folder: Path, count: int) -> None:
    whole = -(-count // 64) * 64  # each batch is full
    with (
        patch("unmemorize.statistics._compute.activations", simulated_activations),
        patch.object(um.Model, "encode"),
    ):
        um.compute_statistics(model, prompts(whole), folder=folder / "statistics")


def detection(model: um.Model, folder: Path, count: int) -> None:
    threshold = um.Threshold.load(um.testbed.threshold_path())
    settings = DetectionRun.of(threshold, stop="cleared")
    run = um.open_run(folder / "detect", model, prompts(count), settings)
    with patch("unmemorize.detection._runs.detect_prompts", simulated_detections):
        um.detect_all(run, model, threshold, stop="cleared")


def discovery(_model: um.Model, folder: Path, count: int) -> None:
    threshold = um.Threshold.load(um.testbed.threshold_path())
    run = um.Run.load(folder / "detect")
    found = discoveries_of(run, threshold, 0.05)
    write_detections_csv(run, discovered=found, calibration=threshold.detect.scores)
    assert found.prompts == count


def joint_edit(model: um.Model, _folder: Path, count: int) -> None:
    erased = tuple(um.Erased(prompt.text) for prompt in prompts(count))
    um.ClosedFormEdit(erased, um.testbed.captions("calibration")).changes(model)


def mitigated(folder: Path, count: int) -> None:
    """Write a finished mitigation of so many memorized prompts."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from mitigated_run import mitigated_run

    mitigated_run(folder / "mitigated", memorized=count, side=64)


def report(_model: um.Model, folder: Path, _count: int) -> None:
    um.write_report(um.Run.load(folder / "mitigated" / "run"))


STEPS: dict[str, Callable[[um.Model, Path, int], None]] = {
    "statistics": statistics,
    "detect": detection,
    "detect, nothing missing": detection,
    "fdr and table": discovery,
    "joint closed form": joint_edit,
    "report": report,
}


def measured(step: str, model: um.Model, folder: Path, count: int) -> dict[str, float]:
    """Measure a step in a process of its own."""
    if step == "report":
        mitigated(folder, count)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def work() -> None:
        began = time.perf_counter()
        with peak() as most:
            STEPS[step](model, folder, count)
        queue.put({"seconds": time.perf_counter() - began, "MiB": most[0]})

    process = context.Process(target=work)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{step} of {count} prompts failed.")
    result: dict[str, float] = queue.get()
    if step == "report":
        result["page MB"] = (folder / "mitigated" / "run" / "report.html").stat().st_size / 1e6
    return result


def main(counts: Sequence[int], steps: Sequence[str], output: Path) -> None:
    torch.set_num_threads(1)
    model = um.Model.load("testbed", device="cpu")
    _ = model.fingerprint, model.value_input  # found out before the encoder is replaced
    print("| step | prompts | seconds | microseconds per prompt | MiB |\n|---|---|---|---|---|")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            for step in steps:
                found = measured(step, model, Path(folder), count)
                record(output, {"step": step, "prompts": count, **found})
                cells = f"{found['seconds']:.2f} | {1e6 * found['seconds'] / count:.0f}"
                print(f"| {step} | {count} | {cells} | {found['MiB']:.0f} |", flush=True)


def record(output: Path, row: dict[str, Any]) -> None:
    """Add a row to the file, in the place of an earlier one."""
    rows = json.loads(output.read_text(encoding="utf-8")) if output.exists() else []
    by_key = {(one["prompts"], one["step"]): one for one in [*rows, row]}
    order = list(STEPS)
    ordered = [by_key[key] for key in sorted(by_key, key=lambda key: (key[0], order.index(key[1])))]
    output.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS)
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/records/growth.json"))
    given = parser.parse_args()
    main(given.prompts, given.steps, given.json)
