"""What an audit of very many prompts takes, by simulation.

python benchmarks/scale.py [benchmarks/records/scale.json] [docs/scale.md]

What the page says stands in scale.md.j2. Edit it there.

Draws the work of each prompt from what benchmarks/throughput.py measured on the bundled model, and
lets GPUs pull units from one coordinating process. What cannot be measured on this machine, the
speed of a GPU and how often one is lost, are options. Their values are printed on the page.
"""

from __future__ import annotations

import argparse
import heapq
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from full_size import meta_unet_of_stable_diffusion_1
from pages import filled

PROMPTS = (10**4, 10**6, 10**8, 10**9)
GPUS = (1, 8, 64, 1000)
UNIT = 8
"""Prompts in a unit of detection, whose two samples each fill a batch of 16."""
_LAION = 4e8
"""Captions of LAION-400M."""
_CLUSTER, _DETECTED, _LOCALIZED = 8, 50_000, 500
"""GPUs, captions and memorized ones among them, of an audit of middle size."""
_SIMULATED = 200_000
"""Units that are simulated one by one; more of them take proportionally longer."""


@dataclass(frozen=True)
class Machine:
    """What is assumed of a cluster.

    Args:
        tflops: TFLOP/s that a GPU sustains on a denoiser.
        losses: workers lost per hour of work.
        called: the share of prompts that are called memorized and localized.
    """

    tflops: float
    losses: float
    called: float


@dataclass(frozen=True)
class Audit:
    """What a simulation shows.

    Args:
        hours: wall time.
        gpu_hours: hours of all GPUs, waiting included.
        waiting: the share of them in which GPUs waited for the coordinating process.
        lost: the expected number of units that are done again.
    """

    hours: float
    gpu_hours: float
    waiting: float
    lost: int


def samples_of(measured: dict[str, Any], step: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Denoiser samples per prompt that were measured for a step."""
    return np.asarray(measured[step]["samples"], np.float64)


def simulate(
    measured: dict[str, Any], machine: Machine, prompts: int, gpus: int, flops: float, seed: int = 0
) -> Audit:
    """Simulate one audit.

    The coordinating process serves one unit at a time. A lost worker loads its model again, and its
    unit is done again.
    """
    rng = np.random.default_rng(seed)
    units = -(-prompts // UNIT)
    simulated = min(units, _SIMULATED)
    per_sample = flops / (machine.tflops * 1e12)
    overhead, load = measured["overhead"]["2 workers"], measured["load"]["1 worker"]
    work = rng.choice(samples_of(measured, "detect"), (simulated, UNIT)).sum(1)
    called = rng.binomial(UNIT, machine.called, simulated)
    localization = samples_of(measured, "localize")
    work += [rng.choice(localization, count).sum() if count else 0.0 for count in called]
    free = [(load, gpu) for gpu in range(gpus)]
    heapq.heapify(free)
    idle_from, waited, lost, end = 0.0, 0.0, 0.0, load
    for samples in work:
        at, gpu = heapq.heappop(free)
        idle_from = max(at, idle_from) + overhead
        waited += idle_from - at
        seconds = samples * per_sample
        risk = -np.expm1(-machine.losses * seconds / 3600)
        lost += risk
        while rng.random() < risk:
            seconds += samples * per_sample * rng.random() + load
        end = max(end, idle_from + seconds)
        heapq.heappush(free, (idle_from + seconds, gpu))
    factor = units / simulated
    hours = (load + (end - load) * factor) / 3600
    return Audit(hours, hours * gpus, waited * factor / 3600 / (hours * gpus), round(lost * factor))


def page(
    measured: dict[str, Any], machine: Machine, flops: float, growth: list[dict[str, Any]]
) -> str:
    """Fill the page's template with the measurements and the simulation."""
    detection, localization = samples_of(measured, "detect"), samples_of(measured, "localize")
    per_sample = flops / (machine.tflops * 1e12)
    seconds_per_unit = UNIT * detection.mean() * per_sample
    record_bytes = measured["detect"]["bytes per record"]
    minutes = [
        prompts * samples.mean() * per_sample / _CLUSTER / 60
        for prompts, samples in ((_DETECTED, detection), (_LOCALIZED, localization))
    ]
    return filled(
        "scale.md.j2",
        measured=_measured_table(measured),
        detector=measured["detect"]["detector"],
        prompts=len(detection),
        detect_mean=f"{detection.mean():.3g}",
        shared=measured["detect"]["shared"],
        localized=len(localization),
        localize_mean=f"{localization.mean():.0f}",
        localize_median=f"{np.median(localization):.0f}",
        localize_highest=f"{localization.max():.0f}",
        record_bytes=f"{record_bytes:.0f}",
        prompt_microseconds=f"{1e6 * measured['prompt seconds']:.0f}",
        called=f"{machine.called:g}",
        tflop=f"{flops / 1e12:.2f}",
        tflops=f"{machine.tflops:g}",
        hours_per_loss=f"{1 / machine.losses:g}",
        unit=UNIT,
        simulated=_simulated_table(measured, machine, flops),
        busy=f"{seconds_per_unit / measured['overhead']['2 workers']:.0f}",
        gigabytes=f"{_LAION * record_bytes / 1e9:.0f}",
        hours_to_start=f"{_LAION * measured['prompt seconds'] / 3600:.1f}",
        growth=_growth_table(growth),
        page_mb=f"{_megabytes_of_report(growth, 1000):.0f}",
        detect_minutes=f"{minutes[0]:.1f}",
        localize_minutes=f"{minutes[1]:.1f}",
    )


def _measured_table(measured: dict[str, Any]) -> str:
    lines = [
        "| engine | overhead per unit | ready after |",
        "|---|---|---|",
    ]
    for name, seconds in measured["overhead"].items():
        load = measured["load"][name]
        lines.append(f"| {name} | {1000 * seconds:.2f} ms | {load:.1f} s |")
    return "\n".join(lines)


def _simulated_table(measured: dict[str, Any], machine: Machine, flops: float) -> str:
    lines = [
        "| prompts | GPUs | wall time | GPU hours | GPUs wait for the main process "
        "| units done again |",
        "|---|---|---|---|---|---|",
    ]
    for prompts in PROMPTS:
        for gpus in GPUS:
            audit = simulate(measured, machine, prompts, gpus, flops)
            cells = (
                f"10^{round(np.log10(prompts))}",
                str(gpus),
                _duration(audit.hours),
                f"{audit.gpu_hours:,.1f}",
                f"{audit.waiting:.1%}",
                str(audit.lost),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _megabytes_of_report(rows: list[dict[str, Any]], prompts: int) -> float:
    """Return how large the page of so many prompts is."""
    wanted = ("report", prompts)
    (size,) = (row["page MB"] for row in rows if (row["step"], row["prompts"]) == wanted)
    return float(size)


def _growth_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| step | prompts | seconds | microseconds per prompt | MiB |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        seconds, prompts = row["seconds"], row["prompts"]
        cells = (
            row["step"],
            f"{prompts:,}",
            f"{seconds:.1f}",
            f"{1e6 * seconds / prompts:.0f}",
            f"{row['MiB']:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def flops_of_a_sample() -> float:
    """Count one forward of the U-Net of Stable Diffusion 1.4 at 512 x 512, without computing it.

    A multiply-add counts as two operations.
    """
    unet = meta_unet_of_stable_diffusion_1()
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        unet(torch.empty(1, 4, 64, 64), torch.empty(1), torch.empty(1, 77, 768))
    return float(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    record = Path("benchmarks/records/scale.json")
    parser.add_argument("measured", nargs="?", type=Path, default=record)
    parser.add_argument("page", nargs="?", type=Path, default=Path("docs/scale.md"))
    parser.add_argument("--growth", type=Path, default=Path("benchmarks/records/growth.json"))
    parser.add_argument("--tflops", type=float, default=100.0)
    parser.add_argument("--losses", type=float, default=0.001)
    parser.add_argument("--called", type=float, default=0.001)
    options = parser.parse_args()
    machine = Machine(options.tflops, options.losses, options.called)
    measured, growth = (
        json.loads(path.read_text(encoding="utf-8")) for path in (options.measured, options.growth)
    )
    text = page(measured, machine, flops_of_a_sample(), growth)
    options.page.write_text(text, encoding="utf-8")
    print(options.page)


if __name__ == "__main__":
    main()
