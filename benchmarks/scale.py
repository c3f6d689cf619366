"""What an audit of very many prompts takes, by simulation: python benchmarks/scale.py [work/throughput.json] [docs/scale.md]

Draws the work of each prompt from what benchmarks/throughput.py measured on the bundled model, and lets GPUs pull units from one driver.
What cannot be measured on this machine, the speed of a GPU and how often one is lost, are options; their values are printed on the page.
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

PROMPTS = (10**4, 10**6, 10**8, 10**9)
GPUS = (1, 8, 64, 1000)
UNIT = 8
"""Prompts in a unit of detection: two seeds each fill a batch of 16."""
_SIMULATED = 200_000
"""Units that are simulated one by one; more of them take proportionally longer."""


@dataclass(frozen=True)
class Machine:
    """What is assumed of a cluster.

    Args:
        tflops: that a GPU sustains on a denoiser.
        losses: of a worker per hour of work.
        called: share of prompts that are called memorized and localized.
    """

    tflops: float
    losses: float
    called: float


@dataclass(frozen=True)
class Audit:
    """What came out.

    Args:
        hours: wall time.
        gpu_hours: of all GPUs, waiting included.
        waiting: share of them in which GPUs waited for the driver.
        lost: units that are done again, as expected.
    """

    hours: float
    gpu_hours: float
    waiting: float
    lost: int


def simulate(
    measured: dict[str, Any], machine: Machine, prompts: int, gpus: int, flops: float, seed: int = 0
) -> Audit:
    """One audit. The driver serves one unit at a time; a lost worker loads its model again, and its unit is done again."""
    rng = np.random.default_rng(seed)
    units = -(-prompts // UNIT)
    simulated = min(units, _SIMULATED)
    per_sample = flops / (machine.tflops * 1e12)
    detection = np.asarray(measured["detect"]["in process"]["samples"], float)
    localization = np.asarray(measured["localize"]["in process"]["samples"], float)
    overhead, load = measured["overhead"]["2 workers"], measured["load"]["1 worker"]
    work = rng.choice(detection, (simulated, UNIT)).sum(1)
    called = rng.binomial(UNIT, machine.called, simulated)
    work += [rng.choice(localization, count).sum() if count else 0.0 for count in called]
    free = [(load, gpu) for gpu in range(gpus)]
    heapq.heapify(free)
    driver, waited, lost, end = 0.0, 0.0, 0.0, load
    for samples in work:
        at, gpu = heapq.heappop(free)
        served = max(at, driver)
        driver = served + overhead
        waited += driver - at
        seconds = samples * per_sample
        risk = -np.expm1(-machine.losses * seconds / 3600)
        lost += risk
        while rng.random() < risk:
            seconds += samples * per_sample * rng.random() + load
        end = max(end, driver + seconds)
        heapq.heappush(free, (driver + seconds, gpu))
    factor = units / simulated
    hours = (load + (end - load) * factor) / 3600
    return Audit(hours, hours * gpus, waited * factor / 3600 / (hours * gpus), round(lost * factor))


def page(measured: dict[str, Any], machine: Machine, flops: float) -> str:
    detection = np.asarray(measured["detect"]["in process"]["samples"], float)
    localization = np.asarray(measured["localize"]["in process"]["samples"], float)
    overhead, size = measured["overhead"], measured["detect"]["in process"]["bytes per record"]
    lines = [
        "# Scale",
        "",
        "How long an audit takes, where its bottleneck lies, and how to start it on many GPUs. Written by `benchmarks/scale.py` from what",
        "`benchmarks/throughput.py` measured on two CPU cores (`make bench-scale`). The work of a prompt and the cost of the driver are",
        "measured; the GPU is not, there was none: its speed is an option of the script.",
        "",
        "## Measured",
        "",
        "| driver | overhead per unit | ready after | `detect --cascade` | `localize` |",
        "|---|---|---|---|---|",
    ]
    for name in overhead:
        rates = [
            f"{measured[what][name]['per second']:.2f} prompts/s" for what in ("detect", "localize")
        ]
        lines.append(
            f"| {name} | {1000 * overhead[name]:.2f} ms | {measured['load'][name]:.1f} s | {' | '.join(rates)} |"
        )
    both = [
        measured[what]["2 workers"]["per second"] / measured[what]["1 worker"]["per second"]
        for what in ("detect", "localize")
    ]
    starting = 1e6 * measured["prompt seconds"]
    lines += [
        "",
        "The process itself and a single worker use both cores, each of two workers one of them, so two workers gain where the second core",
        f"helped little: they are {both[0]:.2f} times as fast in detection and {both[1]:.2f} times in localization.",
        "",
        f"A prompt that is not memorized takes {detection.mean():.1f} denoiser samples on average (cascade), a memorized one",
        f"{localization.mean():.0f} weighted samples to localize (median {np.median(localization):.0f}, highest {localization.max():.0f}).",
        f"A record takes {size:.0f} bytes. Starting a run, or going on with one, takes {starting:.0f} microseconds per prompt.",
        "",
        "## Simulated",
        "",
        f"Detection of every prompt, localization of the share {machine.called:g} that is called memorized (a threshold made with",
        f"`--max-fpr {machine.called:g}`). A sample of Stable Diffusion 1.4 at 512 x 512 takes {flops / 1e12:.2f} TFLOP (counted).",
        f"Assumed are {machine.tflops:g} TFLOP/s sustained by a GPU, and one worker lost per {1 / machine.losses:g} hours of its work.",
        f"One driver serves all GPUs, {UNIT} prompts at a time.",
        "",
        "| prompts | GPUs | wall time | GPU hours | GPUs wait for the driver | units done again |",
        "|---|---|---|---|---|---|",
    ]
    for prompts in PROMPTS:
        for gpus in GPUS:
            found = simulate(measured, machine, prompts, gpus, flops)
            size_of_job = f"10^{round(np.log10(prompts))} | {gpus} | {_duration(found.hours)} | {found.gpu_hours:,.1f}"
            lines.append(f"| {size_of_job} | {found.waiting:.1%} | {found.lost} |")
    limit = UNIT * detection.mean() * flops / (machine.tflops * 1e12) / overhead["2 workers"]
    lines += [
        "",
        f"One driver keeps about {limit:.0f} such GPUs busy in detection. Beyond that, or where nodes share no file system, give each of",
        "several drivers its part: `--shard I/N`, and `unmemorize runs merge` at the end. A set of 4 * 10^8 captions, as LAION-400M,",
        f"leaves {4e8 * size / 1e9:.0f} GB of records, and {4e8 * measured['prompt seconds'] / 3600:.1f} hours pass before its first",
        "prompt is looked at in a single run: cut such a list into several.",
        "",
        _FIXED.strip(),
        "",
    ]
    return "\n".join(lines)


_FIXED = """
## Drivers

The same records come out whoever works, since units are always the same prompts together; on CPUs to the last bit only with the same
number of threads (`OMP_NUM_THREADS`), else scores differ by about 1e-6.

| | option | what it is |
|---|---|---|
| this process | | nothing is started |
| local workers | `--workers N` | N processes, each with its own model; worker k on GPU k |
| Ray | `--engine ray --workers N [--address auto] [--gpus 1]` | N actors, one per GPU; `pip install "unmemorize[ray]"` |
| an array of programs | `--shard I/N` | each does its part, in one folder or several, which `unmemorize runs merge` joins |

They go together: `--shard 3/8 --workers 4`. The driver alone writes records; workers and actors send theirs to it. A worker that is lost is
replaced and its unit tried again, three times in all. A prompt that fails is on record with its error, does not stop the others, and is
tried again by the same command; the exit code is then 1. Ctrl-C stops at once with exit code 130. `unmemorize status RUN` shows where a run
stands. `statistics`, `threshold`, `detect`, `localize` and `generate` take these options (`threshold` no `--shard`); in Python they are
`engine=` and `shard=`. What fails in `statistics` and `threshold` is named when all else is done, and nothing is written until it is left
out.

Prompts are streamed from text, CSV, JSON lines or Parquet, or a folder of such files; `unmemorize runs parquet RUN -o FILE` writes results
back. `detect` keeps a byte of each prompt in memory while it works, and some 30 bytes when it sums up, which takes about a minute for a
million records; of several shards the last one does it. `localize` and `generate` hold what concerns memorized prompts, `threshold` and
the report everything.

Examples: [a Slurm array](launch/slurm.sh), [SkyPilot](launch/skypilot.yaml). Neither was tried on a cluster, as there was none; tested
are two Ray nodes on one machine, one of which is killed midway, shards at the same time in one folder, and workers that are killed.
"""


def _duration(hours: float) -> str:
    return (
        f"{hours / 24:,.1f} days"
        if hours >= 48
        else f"{hours:.1f} h"
        if hours >= 1
        else f"{60 * hours:.1f} min"
    )


def flops_of_a_sample() -> float:
    """Of one forward of the U-Net of Stable Diffusion 1.4 at 512 x 512, two for each multiply-add; nothing is computed."""
    unet = meta_unet_of_stable_diffusion_1()
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        unet(torch.empty(1, 4, 64, 64), torch.empty(1), torch.empty(1, 77, 768))
    return float(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measured", nargs="?", type=Path, default=Path("work/throughput.json"))
    parser.add_argument("page", nargs="?", type=Path, default=Path("docs/scale.md"))
    parser.add_argument("--tflops", type=float, default=100.0)
    parser.add_argument("--losses", type=float, default=0.001)
    parser.add_argument("--called", type=float, default=0.001)
    options = parser.parse_args()
    machine = Machine(options.tflops, options.losses, options.called)
    options.page.write_text(
        page(json.loads(options.measured.read_text()), machine, flops_of_a_sample()),
        encoding="utf-8",
    )
    print(options.page)


if __name__ == "__main__":
    main()
