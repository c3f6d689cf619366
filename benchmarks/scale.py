"""What an audit of very many prompts takes, by simulation.

python benchmarks/scale.py [work/throughput.json] [docs/scale.md]

Draws the work of each prompt from what benchmarks/throughput.py measured on the bundled model, and
lets GPUs pull units from one coordinating process. What cannot be measured on this machine, the
speed of a GPU and how often one is lost, are options. Their values are printed on the page.
"""

from __future__ import annotations

import argparse
import heapq
import json
import textwrap
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
    return np.asarray(measured[step]["in process"]["samples"], np.float64)


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


def page(measured: dict[str, Any], machine: Machine, flops: float) -> str:
    """Write the page docs/scale.md."""
    blocks = [
        "# Scale",
        _wrapped("""
            How long an audit takes, where its bottleneck lies, and how to start it on many GPUs.
            `benchmarks/scale.py` wrote this page from what `benchmarks/throughput.py` measured on
            two CPU cores (`make bench-scale`). The work of a prompt and the cost of coordination
            are measured. The GPU is not, as there was none: its speed is an option of the script.
        """),
        "## Measured",
        _measured_table(measured),
        *_measured_text(measured),
        "## Simulated",
        _wrapped(f"""
            Detection of every prompt, and localization of the share {machine.called:g} that is
            called memorized (a threshold made with `--max-fpr {machine.called:g}`). A sample of
            Stable Diffusion 1.4 at 512 x 512 takes {flops / 1e12:.2f} TFLOP (counted). Assumed are
            {machine.tflops:g} TFLOP/s sustained by a GPU, and one worker lost per
            {1 / machine.losses:g} hours of its work. One process hands {UNIT} prompts at a time to
            all GPUs.
        """),
        _simulated_table(measured, machine, flops),
        _limits(measured, machine, flops),
        _ENGINES.strip(),
    ]
    return "\n\n".join(blocks) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 100, break_long_words=False)


def _measured_table(measured: dict[str, Any]) -> str:
    lines = [
        "| engine | overhead per unit | ready after | `detect` | `localize` |",
        "|---|---|---|---|---|",
    ]
    for name, seconds in measured["overhead"].items():
        rates = " | ".join(
            f"{measured[step][name]['per second']:.2f} prompts/s" for step in ("detect", "localize")
        )
        load = measured["load"][name]
        lines.append(f"| {name} | {1000 * seconds:.2f} ms | {load:.1f} s | {rates} |")
    return "\n".join(lines)


def _measured_text(measured: dict[str, Any]) -> list[str]:
    detection, localization = samples_of(measured, "detect"), samples_of(measured, "localize")
    gains = [
        measured[step]["2 workers"]["per second"] / measured[step]["1 worker"]["per second"]
        for step in ("detect", "localize")
    ]
    return [
        _wrapped(f"""
            The process itself and a single worker use both cores, and each of two workers uses one
            of them. Two workers gain where the second core helped little: they are {gains[0]:.2f}
            times as fast in detection and {gains[1]:.2f} times in localization.
        """),
        _wrapped(f"""
            A prompt that is not memorized takes {detection.mean():.1f} denoiser samples on average
            (cascade). A memorized one takes {localization.mean():.0f} weighted samples to localize
            (median {np.median(localization):.0f}, highest {localization.max():.0f}). A record takes
            {measured["detect"]["in process"]["bytes per record"]:.0f} bytes. Starting or resuming a
            run takes {1e6 * measured["prompt seconds"]:.0f} microseconds per prompt.
        """),
    ]


def _simulated_table(measured: dict[str, Any], machine: Machine, flops: float) -> str:
    lines = [
        "| prompts | GPUs | wall time | GPU hours | GPUs wait for work | units done again |",
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


def _limits(measured: dict[str, Any], machine: Machine, flops: float) -> str:
    seconds_per_unit = (
        UNIT * samples_of(measured, "detect").mean() * flops / (machine.tflops * 1e12)
    )
    busy = seconds_per_unit / measured["overhead"]["2 workers"]
    gigabytes = 4e8 * measured["detect"]["in process"]["bytes per record"] / 1e9
    hours = 4e8 * measured["prompt seconds"] / 3600
    return _wrapped(f"""
        One process keeps about {busy:.0f} such GPUs busy in detection. Beyond that, or where nodes
        share no file system, start several with `--shard I/N`, and join their runs with `unmemorize
        runs merge`. A set of 4 * 10^8 captions, as LAION-400M, leaves {gigabytes:.0f} GB of
        records, and {hours:.1f} hours pass before its first prompt is looked at in a single run:
        cut such a list into several.
    """)


_ENGINES = """
## Engines

The same records come out of every engine, since units are always the same prompts together. On CPUs
they agree to the last bit only with the same number of threads (`OMP_NUM_THREADS`); otherwise
scores differ by about 1e-6.

| | option | what it is |
|---|---|---|
| this process | | nothing is started |
| local workers | `--workers N` | N processes, each with its own model; worker k on GPU k |
| Ray | `--engine ray --workers N [--address auto] [--gpus 1]` | N actors, one per GPU; `pip install "unmemorize[ray]"` |
| an array of programs | `--shard I/N` | each does its share, in one folder or several, which `unmemorize runs merge` joins |

They can be combined: `--shard 3/8 --workers 4`. Only the coordinating process writes records;
workers and actors send theirs to it. A worker that is lost is replaced and its unit tried again,
three times in all. A prompt that fails is recorded with its error and does not stop the others. The
same command tries it again; the exit code is 1 until it succeeds. Ctrl-C stops at once with exit
code 130. `unmemorize status RUN` shows where a run stands. `statistics`, `threshold`, `detect`,
`localize` and `generate` take these options (`threshold` no `--shard`). In Python they are
`Execution(engine=..., shard=...)`. What fails in `statistics` and `threshold` is named when all else
is done, and nothing is written until it is left out.

Prompts are streamed from text, CSV, JSON lines or Parquet, or a folder of such files. `unmemorize
runs parquet RUN -o FILE` writes results back. `detect` keeps a byte of each prompt in memory while
it works, and some 30 bytes when it sums up, which takes about a minute for a million records; of
several shards the last one does it. `localize` and `generate` hold what concerns memorized prompts,
`threshold` and the report everything.

Examples: [a Slurm array](launch/slurm.sh), [SkyPilot](launch/skypilot.yaml). Neither was tried on a
cluster, as there was none. Tested are two Ray nodes on one machine, one of which is killed midway,
shards that work in one folder at the same time, and workers that are killed.
"""  # noqa: E501 -- rows of a table


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
