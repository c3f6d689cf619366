"""What denoisers of full size cost on a GPU: Stable Diffusion 1.4 and SDXL with random weights.

python benchmarks/real_shapes.py [--models sd xl] [--device cuda] [--seconds 140] [--json FILE]

Latents are 64 x 64 (512 pixels) and 128 x 128 (1024 pixels), and text encoders and decoders have
their published size. Weights are random, which costs do not depend on: prompts are called memorized
by thresholds that make a localization take its shortest and its longest way. Every table names the
card and shows minimum, median and maximum of the readings. What says most is measured first, each
part is guarded, and the JSON file is written after each. If it exists already and is of the same
card and torch, only what it lacks is measured. The command ends after --seconds.
benchmarks/real_shapes_page.py makes a page of the file.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import unmemorize as um
from full_size import Making, stable_diffusion_1, stable_diffusion_xl
from real_shapes_steps import CERTIFICATE, LONGEST, Plan, calling_all, generation, steps
from real_shapes_switching import COMPILED, compiled, neurons_off, within
from real_shapes_timing import forward_of, peak_gib, readings, say, show, start_peak
from unmemorize.detection import detect_prompts, similarity

Report = dict[str, Any]
NAMES = {"sd": "SD 1.4, 512 px", "xl": "SDXL, 1024 px"}
PLANS = {"sd": Plan(), "xl": Plan(images=2, caps=(24, 12))}
_LONGEST = 2.0
"""Seconds that the readings of one batch size may take; larger batches are left out."""
_COMPILING = 75.0
"""Seconds that one way to compile may take, its readings included."""
_SHORTEST = 1.0
"""No part begins that has fewer seconds left."""


@dataclass(frozen=True)
class Part:
    """Some readings of one model in one type.

    Args:
        name: of the part.
        model, dtype: the model's short name, and the type of its weights.
        run: fills readings in, so that those before a failure stay.
        last: a reading that shows that they are there.
        key: where they go; its name by default.
        seconds: that it may take.
    """

    name: str
    model: str
    dtype: str
    run: Callable[[um.Model, Report], None]
    last: str
    key: str = ""
    seconds: float = 600.0

    def readings(self, report: Report) -> Report:
        """Return those that a report has; they can be added to."""
        taken: Report = report["models"].setdefault(NAMES[self.model], {})
        return taken.setdefault(self.key or self.name, {})  # type: ignore[no-any-return]

    def failures(self, report: Report) -> Report:
        """Return why parts of the model failed."""
        taken: Report = report["models"].setdefault(NAMES[self.model], {})
        return taken.setdefault("failed", {})  # type: ignore[no-any-return]


def main(names: list[str], device: str, seconds: float, output: Path | None) -> None:
    began = time.perf_counter()
    card = torch.cuda.get_device_name() if device.startswith("cuda") else device
    report = earlier(output, card)
    before = report["seconds"]
    models = Models(device)
    for part in in_order(names):
        left = seconds - (time.perf_counter() - began)
        if is_done(part, report) or left < _SHORTEST:
            continue
        guarded(part, report, partial(models.get, part), min(left, part.seconds))
        report["seconds"] = before + time.perf_counter() - began
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, parts in report["models"].items():
        show(f"{name}, {card}", parts)
    say(f"all parts took {time.perf_counter() - began:.0f} s")


def earlier(output: Path | None, card: str) -> Report:
    """Return what a file holds of this card and torch, or begin anew."""
    new: Report = {"card": card, "torch": torch.__version__, "models": {}, "seconds": 0.0}
    if output is None or not output.exists():
        return new
    report: Report = json.loads(output.read_text(encoding="utf-8"))
    if all(report[name] == new[name] for name in ("card", "torch")):
        return report
    say(f"{output} is of {report['card']} and torch {report['torch']}: all is measured anew")
    return new


def is_done(part: Part, report: Report) -> bool:
    return part.last in part.readings(report) and part.name not in part.failures(report)


def in_order(names: list[str]) -> Iterator[Part]:
    """Yield what is measured of these models, what says most first."""
    ways = [compiling(way) for way in COMPILED if "sd" in names]
    for name in names:
        yield from of_first_type(name, PLANS[name])
        if name == "sd":
            yield from ways[:1]
    yield from ways[1:2]
    for name in names:
        yield from of_other_layouts(name, PLANS[name])
    for name in names:
        yield from of_other_types(name, PLANS[name])
    yield from ways[2:]


def of_first_type(model: str, plan: Plan) -> Iterator[Part]:
    dtype = plan.dtypes[0]
    yield Part("steps", model, dtype, partial(steps, plan), LONGEST)
    yield Part("images", model, dtype, partial(generation, plan), CERTIFICATE, key="steps")
    yield in_batches(model, plan, dtype, plan.layouts[0])
    yield Part("neurons off", model, dtype, neurons_off, "switching alone")
    yield beside(model, plan, dtype)


def of_other_layouts(model: str, plan: Plan) -> Iterator[Part]:
    for layout in plan.layouts[1:]:
        yield in_batches(model, plan, plan.dtypes[0], layout)


def of_other_types(model: str, plan: Plan) -> Iterator[Part]:
    for dtype in plan.dtypes[1:]:
        for layout in plan.layouts:
            yield in_batches(model, plan, dtype, layout)
        yield beside(model, plan, dtype)


def in_batches(model: str, plan: Plan, dtype: str, layout: str) -> Part:
    run = partial(batches, layout, plan.batches)
    return Part(f"batches, {dtype}, {layout}", model, dtype, run, str(plan.batches[0]))


def beside(model: str, plan: Plan, dtype: str) -> Part:
    run = partial(neighbours, max(plan.batches))
    return Part(f"neighbours, {dtype}", model, dtype, run, "scores")


def compiling(way: str) -> Part:
    run, dtype = partial(compiled, way), PLANS["sd"].dtypes[0]
    return Part(f"compiled, {way}", "sd", dtype, run, "after it, same bits", seconds=_COMPILING)


class Models:
    """Models with random weights, of which one at a time is in memory.

    Args:
        device: where they are.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._held: dict[tuple[str, str], um.Model] = {}

    def get(self, part: Part) -> um.Model:
        """Return the model of a part."""
        key = part.model, part.dtype
        if key not in self._held:
            self._held.clear()
            gc.collect()
            if self._device.startswith("cuda"):
                torch.cuda.empty_cache()
            self._held[key] = um.Model(made(part.model, self._device, getattr(torch, part.dtype)))
        return self._held[key]


def made(name: str, device: str, dtype: torch.dtype) -> Any:
    make, latents = {"sd": (stable_diffusion_1, 64), "xl": (stable_diffusion_xl, 128)}[name]
    return make(Making(device, dtype, latents, whole=True))


def guarded(part: Part, report: Report, model: Callable[[], um.Model], seconds: float) -> None:
    """Make the readings of a part, and note why it failed if it does."""
    began = time.perf_counter()
    failures = part.failures(report)
    failures.pop(part.name, None)
    try:
        with within(seconds):
            part.run(model(), part.readings(report))
    except Exception as problem:  # one part must not cost the others
        traceback.print_exc()
        failures[part.name] = f"{type(problem).__name__}: {problem}"[:300]
    say(f"  {NAMES[part.model]}, {part.name}: {time.perf_counter() - began:.1f} s")


def batches(layout: str, sizes: tuple[int, ...], model: um.Model, taken: Report) -> None:
    """Measure seconds per pass and peak memory by the samples of a pass."""
    denoiser: Any = model.denoiser
    denoiser.to(memory_format=getattr(torch, layout))
    try:
        for size in sizes:
            start_peak(model.device)
            seconds = readings(forward_of(model, size, layout), model.device)
            taken[str(size)] = {"seconds": seconds, "peak GiB": peak_gib(model.device)}
            if 8 * max(seconds) > _LONGEST:  # twice the samples, and four passes
                break
    finally:
        denoiser.to(memory_format=torch.contiguous_format)


def neighbours(most: int, model: um.Model, taken: Report) -> None:
    """Measure how much a prediction and a score depend on what else is in the batch."""
    size = min(8, most)
    texts = [f"zebra {number}" for number in range(2 * size)]
    latents, timestep = model.draw_latents(2 * size, 1), model.timesteps(50)[1]
    text = model.encode(texts[:1]).take([0] * 2 * size)

    def predicted(rows: list[int]) -> torch.Tensor:
        return model.predict(latents[rows], timestep, text.take(rows))

    others = list(range(1, size)), list(range(size, 2 * size - 1))
    unit = predicted([0, *others[0]])
    compared = {
        "the same batch again": predicted([0, *others[0]])[0],
        "other neighbours, same size": predicted([0, *others[1]])[0],
        "another place, same size": predicted([*others[0], 0])[-1],
        "alone": predicted([0])[0],
    }
    changes = {name: float((one - unit[0]).abs().max()) for name, one in compared.items()}
    threshold = calling_all(model)
    prompts = [um.Prompt(one) for one in texts[:size]]
    together = detect_prompts(model, prompts, threshold, threshold.settings)
    apart = [detect_prompts(model, [one], threshold, threshold.settings)[0] for one in prompts]
    images = torch.rand(2, 6, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    by_format = {
        layout: [image.to(model.device, memory_format=getattr(torch, layout)) for image in images]
        for layout in ("contiguous_format", "channels_last")
    }
    expected = similarity(*images)
    taken |= {
        "largest prediction": float(unit.abs().max()),
        "prediction": changes,
        "score": max(
            abs(one.score - other.score) for one, other in zip(together, apart, strict=True)
        ),
        "scores": [one.score for one in apart],
        "similarity against the CPU": {
            layout: float((similarity(*some).cpu() - expected).abs().max())
            for layout, some in by_format.items()
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=140.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    main(given.models, given.device, given.seconds, given.json)
