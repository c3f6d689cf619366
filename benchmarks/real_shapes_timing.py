"""Readings of seconds and of the device's memory, and how they are printed."""

from __future__ import annotations

import statistics as stats
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import unmemorize as um


def readings(
    run: Callable[[], object], device: torch.device, count: int = 3, *, warm: bool = True
) -> list[float]:
    """Measure the seconds of some calls, each until the device is done.

    Args:
        run: what is called.
        device: where it computes.
        count: how many readings.
        warm: whether a call goes before that is not counted.
    """
    taken = []
    for _ in range(warm):
        run()
    for _ in range(count):
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        taken.append(time.perf_counter() - began)
    return taken


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def start_peak(device: torch.device) -> None:
    """Forget the highest use of memory so far."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """Return the most memory that tensors took since `start_peak`, weights included."""
    return torch.cuda.max_memory_allocated(device) / 1024**3 if device.type == "cuda" else None


def gib(device: torch.device) -> float | None:
    """Return the memory that tensors take now."""
    return torch.cuda.memory_allocated(device) / 1024**3 if device.type == "cuda" else None


def forward_of(
    model: um.Model, batch: int, layout: str = "contiguous_format"
) -> Callable[[], Tensor]:
    """Return one pass of the pipeline's denoiser, compiled if it is."""
    latents = model.draw_latents(batch, 1).to(memory_format=getattr(torch, layout))
    arguments: dict[str, Any] = model.encode(["a photo"]).take([0] * batch).arguments()
    arguments |= {"timestep": model.timesteps(50)[1].to(model.device), "return_dict": False}

    def forward() -> Tensor:
        with torch.no_grad():
            output: Tensor = model.pipe.unet(latents, **arguments)[0]
        return output

    return forward


def spread(seconds: Sequence[float]) -> str:
    """Write minimum, median and maximum of readings, in milliseconds below one second."""
    if not seconds:
        return ""
    scale, unit = (1, "s") if stats.median(seconds) >= 1 else (1000, "ms")
    if len(seconds) == 1:
        return f"{scale * seconds[0]:.4g} {unit} (one reading)"
    low, middle, high = min(seconds), stats.median(seconds), max(seconds)
    return ", ".join(f"{scale * one:.5g}" for one in (low, middle, high)) + f" {unit}"


def show(title: str, parts: dict[str, Any]) -> None:
    """Print one table for each part."""
    for name, part in parts.items():
        say(f"\n{title}: {name}")
        for line in lines(part):
            say("  " + line)


def lines(part: Any, indent: str = "") -> Iterator[str]:
    if not isinstance(part, dict):
        yield f"{indent}{part}"
        return
    for name, value in part.items():
        if isinstance(value, dict) and "seconds" in value:
            rest = {key: other for key, other in value.items() if key not in ("seconds",)}
            shown = ", ".join(f"{key} {brief(other)}" for key, other in rest.items())
            yield f"{indent}{name:44} {spread(value['seconds']):34} {shown}"
        elif isinstance(value, dict):
            yield f"{indent}{name}"
            yield from lines(value, indent + "  ")
        else:
            yield f"{indent}{name:44} {brief(value)}"


def brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(brief, value))
    return str(value)


def say(text: str) -> None:
    print(text, flush=True)
