"""Seconds and memory of each step for one prompt, on a model of full size with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

import unmemorize as um
from real_shapes_timing import peak_gib, readings, start_peak
from unmemorize.detection import DetectionLevel, default_detector, detect_prompts, settings_of
from unmemorize.pipelines import _autoencoder, select_value_layers

Report = dict[str, Any]
SHORTEST, LONGEST = "localize, first set passes", "localize, no set passes"
IMAGES = "memory of images"
_CERTIFICATE = 72
"""Images of one prompt in a certificate at the error 5 %."""
CERTIFICATE = f"{_CERTIFICATE} images of a certificate"


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


def steps(plan: Plan, model: um.Model, taken: Report) -> None:
    """Measure seconds and peak memory of each step for one prompt."""
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


def generation(plan: Plan, model: um.Model, taken: Report) -> None:
    """Add seconds and peak memory of images to what was measured of other steps."""
    prompts = iter(um.Prompt(f"quartz {number}") for number in range(10**6))

    def generate(images: int, count: int) -> None:
        settings = um.GenerationSettings(images=images, steps=count)
        um.generate(model, next(prompts), settings=settings)

    generate(plan.images, 1)  # loads kernels
    start_peak(model.device)
    seconds = readings(lambda: generate(plan.images, plan.steps), model.device, warm=False)
    each = [one / plan.images for one in seconds]
    peak = peak_gib(model.device)
    taken |= {
        f"generate, {plan.steps} steps, {plan.images} images, each": {
            "seconds": each,
            "peak GiB": peak,
        },
        CERTIFICATE: {
            "seconds": [_CERTIFICATE * one for one in each],
            "peak GiB": peak,
        },
    }
    if model.device.type == "cuda":
        taken[IMAGES] = memory_of_images(model, generate)


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
        SHORTEST: way(1 - 1e-6, theta=1e6, top_k=1),
        LONGEST: way(-1.0),
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
