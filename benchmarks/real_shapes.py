"""What denoisers of full size cost on a GPU: Stable Diffusion 1.4 and SDXL with random weights.

python benchmarks/real_shapes.py [--models sd xl] [--device cuda] [--seconds 140] [--json FILE]

Latents are 64 x 64 (512 pixels) and 128 x 128 (1024 pixels), and text encoders and decoders have
their published size. Weights are random, which costs do not depend on: prompts are called memorized
by thresholds that make a localization take its shortest and its longest way. Every table names the
card and shows minimum, median and maximum of the readings. Each part is guarded, and the JSON file
is written after each. benchmarks/real_shapes_page.py makes a page of it. Compiling comes last and
gets what is left of --seconds, and at least 30.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import unmemorize as um
from full_size import Making, stable_diffusion_1, stable_diffusion_xl
from real_shapes_switching import compiled, neurons_off
from real_shapes_timing import forward_of, gib, peak_gib, readings, say, show, start_peak
from unmemorize.detection import (
    DetectionLevel,
    default_detector,
    detect_prompts,
    settings_of,
    similarity,
)
from unmemorize.pipelines import _autoencoder, select_value_layers

Report = dict[str, Any]
NAMES = {"sd": "SD 1.4, 512 px", "xl": "SDXL, 1024 px"}
_COMPILING = 30.0
"""Seconds for compiling that remain even if everything else took long."""
_LONGEST = 2.0
"""Seconds that the readings of one batch size may take; larger batches are left out."""
_CERTIFICATE = 72
"""Images of one prompt in a certificate at the error 5 %."""


@dataclass(frozen=True)
class Plan:
    """How much is measured; tests make it small.

    Args:
        batches: denoiser samples of one pass.
        dtypes: the types of the weights; everything but batches and neighbours uses the first.
        layouts: memory formats of the weights.
        captions: how many captions statistics are made of.
        images, steps: of one call of `generate`.
        caps: GiB to which the device's memory is limited for one localization each.
    """

    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    dtypes: tuple[str, ...] = ("float16", "bfloat16")
    layouts: tuple[str, ...] = ("contiguous_format", "channels_last")
    captions: int = 64
    images: int = 10
    steps: int = 50
    caps: tuple[int, ...] = (24,)


PLANS = {"sd": Plan(), "xl": Plan(images=2, caps=(24, 12))}


def main(names: list[str], device: str, seconds: float, output: Path | None) -> None:
    began = time.perf_counter()
    card = torch.cuda.get_device_name() if device.startswith("cuda") else device
    report: Report = {"card": card, "torch": torch.__version__, "models": {}}

    def write() -> None:
        report["seconds"] = time.perf_counter() - began
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    for name in names:
        parts: Report = {}
        report["models"][NAMES[name]] = parts
        pipe = made(name, device)
        say(f"{NAMES[name]} made after {time.perf_counter() - began:.0f} s")
        measure(pipe, PLANS[name], parts, write)
        del pipe
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    if "sd" in names:
        model = um.Model(made("sd", device))
        parts = report["models"][NAMES["sd"]]
        most = max(_COMPILING, seconds - (time.perf_counter() - began))
        guarded("compiled", parts, partial(compiled, model, most))
    write()
    for name, parts in report["models"].items():
        show(f"{name}, {card}", parts)
    say(f"all parts took {time.perf_counter() - began:.0f} s")


def made(name: str, device: str) -> Any:
    make, latents = {"sd": (stable_diffusion_1, 64), "xl": (stable_diffusion_xl, 128)}[name]
    return make(Making(device, torch.float16, latents, whole=True))


def measure(pipe: Any, plan: Plan, parts: Report, write: Callable[[], None]) -> None:
    """Measure a model in each dtype, and note each part when it is done."""
    for dtype in plan.dtypes:
        pipe.to(getattr(torch, dtype))
        model = um.Model(pipe)
        if dtype == plan.dtypes[0]:
            start_peak(model.device)
            parts["weights GiB"] = gib(model.device)
            guarded("steps", parts, partial(steps, model, plan, parts))
            write()
            guarded("steps", parts, partial(generation, model, plan, parts["steps"]))
            write()
        guarded(f"neighbours, {dtype}", parts, partial(neighbours, model, max(plan.batches)))
        for layout in plan.layouts:
            name = f"batches, {dtype}, {layout}"
            guarded(name, parts, partial(batches, model, plan.batches, layout))
            write()
        if dtype == plan.dtypes[0]:
            guarded("neurons off", parts, partial(neurons_off, model))
            write()


def guarded(name: str, parts: Report, part: Callable[[], Any]) -> None:
    """Note what a part returns, or why it failed."""
    began = time.perf_counter()
    try:
        parts[name] = part()
    except Exception as problem:  # one part must not cost the others
        traceback.print_exc()
        before = parts.get(name, {})
        parts[name] = {**before, "failed": f"{type(problem).__name__}: {problem}"[:300]}
    say(f"  {name}: {time.perf_counter() - began:.1f} s")


def batches(model: um.Model, sizes: tuple[int, ...], layout: str) -> Report:
    """Measure seconds per pass and peak memory by the samples of a pass."""
    denoiser: Any = model.denoiser
    denoiser.to(memory_format=getattr(torch, layout))
    try:
        taken: Report = {}
        for size in sizes:
            start_peak(model.device)
            seconds = readings(forward_of(model, size, layout), model.device)
            taken[str(size)] = {"seconds": seconds, "peak GiB": peak_gib(model.device)}
            if 8 * max(seconds) > _LONGEST:  # twice the samples, and four passes
                break
        return taken
    finally:
        denoiser.to(memory_format=torch.contiguous_format)


def steps(model: um.Model, plan: Plan, parts: Report) -> Report:
    """Measure seconds and peak memory of each step for one prompt."""
    taken: Report = {}
    parts["steps"] = taken  # what was measured before a failure stays
    device = model.device

    def note(
        name: str, run: Callable[[], Any], count: int = 3, per: int = 1, *, warm: bool = False
    ) -> Any:
        results: list[Any] = []
        start_peak(device)
        seconds = readings(lambda: results.append(run()), device, count, warm=warm)
        taken[name] = {
            "seconds": [one / per for one in seconds],
            "peak GiB": peak_gib(device),
        }
        return results[-1]

    note("fingerprint, once per model", lambda: model.fingerprint, 1)
    captions = [f"{word} {number}" for number in range(plan.captions // 4) for word in "abcd"]
    statistics = note(
        "statistics, per caption",
        lambda: um.compute_statistics(model, captions),
        per=len(captions),
    )
    layers = list(select_value_layers(model.value_layers))
    replay = note(
        "plan of replay, once per model",
        lambda: model.replay_plan(layers, um.NoiseSettings().seeds),
        1,
    )
    taken["plan of replay, once per model"] |= {
        "exact": replay.exact,
        "recordings": replay.recordings(um.NoiseSettings().seeds),
        "GiB per recording": replay.bytes_per_sample * um.NoiseSettings().seeds / 1024**3,
    }

    threshold = calling_all(model)
    prompts = iter(um.Prompt(f"zebra {number}") for number in range(10**6))
    detected = partial(um.detect, model, threshold=threshold)
    note("detect", lambda: detected(next(prompts)), warm=True)
    note(
        "detect, 8 prompts together",
        lambda: detect_prompts(
            model, [next(prompts) for _ in range(8)], threshold, threshold.settings
        ),
        per=8,
    )

    ways = localizations(threshold)

    def localize(way: Way) -> um.Localization:
        return um.localize(
            model,
            next(prompts),
            statistics=statistics,
            threshold=way.threshold,
            settings=way.settings,
        )

    for name, way in ways.items():
        found = note(name, partial(localize, way))
        taken[name] |= {
            "samples": found.evaluations,
            "work": found.work,
            "milliseconds per sample of work": 1000 * min(taken[name]["seconds"]) / found.work,
            "candidates": len(found.initial),
            "neurons": len(found.neurons),
            "effects": found.effects.measured_by if found.effects else "",
            "stages": {stage: spent.seconds for stage, spent in found.spent.items()},
            "recorded GiB": found.recorded_bytes / 1024**3,
        }

    if device.type == "cuda":
        shortest = next(iter(ways.values()))
        taken["localize, by memory"] = {
            f"{cap} GiB": under_cap(cap, partial(localize, shortest)) for cap in plan.caps
        }
    return taken


def generation(model: um.Model, plan: Plan, taken: Report) -> Report:
    """Add seconds and peak memory of images to what was measured of other steps."""
    prompts = iter(um.Prompt(f"quartz {number}") for number in range(10**6))

    def generate(images: int, count: int) -> None:
        settings = um.GenerationSettings(images=images, steps=count)
        um.generate(model, next(prompts), settings=settings)

    start_peak(model.device)
    seconds = readings(lambda: generate(plan.images, plan.steps), model.device, warm=False)
    each = [one / plan.images for one in seconds]
    peak = peak_gib(model.device)
    taken |= {
        f"generate, {plan.steps} steps, {plan.images} images, each": {
            "seconds": each,
            "peak GiB": peak,
        },
        f"{_CERTIFICATE} images of a certificate": {
            "seconds": [_CERTIFICATE * one for one in each],
            "peak GiB": peak,
        },
    }
    if model.device.type == "cuda":
        taken["memory of images"] = memory_of_images(model, generate)
    return taken


def memory_of_images(model: um.Model, generate: Callable[[int, int], None]) -> Report:
    """Measure the peak GiB of one step and the decoder, for batches of images."""
    taken: Report = {}
    vae = model.pipe.vae
    usual = _autoencoder.DECODED_TOGETHER
    ways = {"at once": (vae.disable_slicing, 1024**5), "one by one": (vae.enable_slicing, usual)}
    for way, (choose, limit) in ways.items():
        choose()
        _autoencoder.DECODED_TOGETHER = limit
        for images in (1, 4, 10):
            start_peak(model.device)
            try:
                generate(images, 1)
                taken[f"{images} decoded {way}"] = peak_gib(model.device)
            except torch.OutOfMemoryError:
                taken[f"{images} decoded {way}"] = "more than the card has"
                vae.to(model.dtype)  # the pipeline of SDXL decodes in float32
    vae.disable_slicing()
    _autoencoder.DECODED_TOGETHER = usual
    return taken


@dataclass(frozen=True)
class Way:
    """How a localization is made to go."""

    threshold: um.Threshold
    settings: um.LocalizationSettings


def calling_all(model: um.Model) -> um.Threshold:
    """Return a threshold of the default detector that calls every prompt memorized."""
    detector = default_detector(model)
    given = um.Threshold.given(model, 1e-6, um.NoiseSettings())
    level = DetectionLevel(
        detector=detector.name, tau=-1.0, reduction="given", settings=settings_of(detector)
    )
    return replace(given, detect=level)


def localizations(threshold: um.Threshold) -> dict[str, Way]:
    """Return the shortest way, whose first set passes, and the longest, where none does.

    The first begins with the most active neuron of each layer, as memory neurons are few. Both
    choose their criterion, which takes a test of its own.
    """

    def way(tau: float, **settings: Any) -> Way:
        level = replace(threshold.localize, tau=tau, tau_seeds=tau)
        return Way(
            replace(threshold, localize=level),
            um.LocalizationSettings(noise=threshold.settings, **settings),
        )

    return {
        "localize, first set passes": way(1 - 1e-6, theta=1e6, top_k=1),
        "localize, no set passes": way(-1.0),
    }


def under_cap(cap: int, run: Callable[[], um.Localization]) -> str:
    """Say how a localization goes where the device has only so many GiB."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap * 1024**3 / total))
    try:
        found = run()
        return f"effects by {found.effects.measured_by} passes" if found.effects else "no effects"
    except RuntimeError as problem:  # also what libraries raise where they find no memory
        return f"too little ({type(problem).__name__})"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def neighbours(model: um.Model, most: int) -> Report:
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
    return {
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
