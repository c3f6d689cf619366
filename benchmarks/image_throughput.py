"""How many images per second the bundled model draws, against the images of a batch.

python benchmarks/image_throughput.py [--batches 10 40 ...] [--device cuda] [--seconds 60]
    [--json FILE]

An image takes 30 steps with guidance 3, so a pass has two samples for each image of the batch. The
last readings are of up to 24 prompts with 10 images and neurons of their own off, drawn together:
what a mitigation does. Prints minimum, median and maximum of three readings, or of as many as there
was time for, and the peak memory of tensors on a card. The file is written after each batch.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import unmemorize as um
from real_shapes_timing import peak_gib, readings, say, spread, start_peak
from unmemorize.generation import NeuronEdit, generate_each

BATCHES = (10, 40, 120, 240, 480, 960)
STEPS = 30
TOGETHER = 24
"""Prompts, with 10 images each, that are drawn in one batch, each with its own neurons off."""


def main(batches: list[int], device: str, seconds: float, output: Path | None) -> None:
    end = time.perf_counter() + seconds
    model = um.Model.load("testbed", device=device, dtype="float32")
    card = torch.cuda.get_device_name() if device.startswith("cuda") else device
    report: dict[str, Any] = {"card": card, "torch": torch.__version__, "batches": {}}
    draw(model, 1, steps=2)  # loads kernels

    def note(images: int, taken: dict[str, Any]) -> None:
        rate = images / sorted(taken["seconds"])[len(taken["seconds"]) // 2]
        say(f"{images} images: {spread(taken['seconds'])}, {rate:.1f} images per second")
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    for images in batches:
        if time.perf_counter() < end:
            taken = measured(model, partial(draw, model, images), end)
            report["batches"][str(images)] = taken
            note(images, taken)
    if time.perf_counter() < end:
        plants = [entry for entry in um.testbed.planted() if entry.neurons][:TOGETHER]
        taken = measured(model, partial(draw_together, model, plants), end)
        report["prompts together"] = {"prompts": len(plants), **taken}
        note(10 * len(plants), taken)


def measured(model: um.Model, run: Callable[[], object], end: float) -> dict[str, Any]:
    """Take up to three readings, of which the first may end after the time does."""
    start_peak(model.device)
    taken: list[float] = []
    while not taken or (len(taken) < 3 and time.perf_counter() + max(taken) < end):
        taken += readings(run, model.device, 1, warm=False)
    return {"seconds": taken, "peak GiB": peak_gib(model.device)}


def draw(model: um.Model, images: int, steps: int = STEPS) -> None:
    """Draw one batch with nothing off."""
    settings = um.GenerationSettings(images=images, steps=steps, guidance=3.0, batch=images)
    um.generate(model, um.Prompt("a dog"), settings=settings)


def draw_together(model: um.Model, plants: list[um.testbed.Planted]) -> None:
    """Draw images of several prompts, each with its own neurons off, in one batch."""
    settings = um.GenerationSettings(images=10, steps=STEPS, guidance=3.0, batch=10 * len(plants))
    edits = [NeuronEdit(entry.neurons) for entry in plants]
    generate_each(model, [entry.prompt.text for entry in plants], edits, settings=settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    main(given.batches, given.device, given.seconds, given.json)
