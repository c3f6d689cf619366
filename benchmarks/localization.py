"""What each stage of localization costs, compared with the published procedure.

python benchmarks/localization.py [--prompts N] [--criterion seeds|unblocked] [--full-size]
    [--json FILE]

Runs on the bundled model and, if asked to, on a full-size U-Net. Prints medians over memorized
prompts of seconds and of denoiser samples. A sample is one initial noise through one forward of the
denoiser; "weighted" counts the share of the forward's multiply-adds that ran. The last line has the
ratios published / ours: of bisect over the prompts on which theta is not exhausted, of detection
over unmemorized prompts. benchmarks/performance.py makes a page of the JSON file. The bundled model
is on a card where there is one, and so are its seconds; MiB are those of the process, without the
card. The full-size U-Net stays on the processor.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics as stats
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import unmemorize as um
from detection import detection
from full_size import stable_diffusion_1
from published import PublishedLocalization
from unmemorize.detection import detect_prompts, make_probe
from unmemorize.localization import Criterion, Evaluator, Limit, RefinementMethod
from unmemorize.pipelines import select_value_layers
from unmemorize.statistics import activations

METHODS: tuple[RefinementMethod, ...] = ("greedy", "bisect")


def main(prompts: int, criterion: Criterion | None, full_size: bool, output: Path | None) -> None:
    model = um.Model.load("testbed", dtype="float32")
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    settings = um.LocalizationSettings(
        noise=threshold.settings,
        seed_threshold=threshold.localize.tau,  # the published code has one number for all
        criterion=criterion or um.testbed.defaults()["criterion"],
    )
    rows = bundled(model, prompts, settings)
    detected = detection(model)
    show(rows)
    report: dict[str, Any] = {
        "criterion": settings.criterion,
        "bundled": rows,
        "detection": detected,
        "ideas": ideas(model, rows, settings),
    }
    report["precision"] = precision()
    report["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"peak memory {report['peak GiB']:.2f} GiB")
    write(report, output)
    if full_size:
        report["full size"] = full_size_rows()
        show(report["full size"])
        write(report, output)
    minimal = sum(row["bisect"]["minimal"] and row["bisect"]["below"] for row in rows)
    same_theta = sum(row["bisect"]["theta"] == row["greedy"]["theta"] for row in rows)
    print(
        f"bisect: {minimal} of {len(rows)} sets below the threshold with no neuron that can go; "
        f"{same_theta} end the selection at the same step as one by one"
    )
    equal = stats.mean(row["greedy"]["equal"] for row in rows)
    print(
        f"ratios greedy={ratio(rows, 'greedy'):.1f} "
        f"bisect={ratio(without_exhausted_theta(rows), 'bisect'):.1f} "
        f"detect={detected['published'] / detected['ours']:.1f} greedy_equal={equal:.3f}"
    )


def write(report: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        output.write_text(json.dumps(report, indent=1), encoding="utf-8")


def without_exhausted_theta(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if not row["theta_exhausted"]] or rows


def bundled(model: um.Model, count: int, settings: um.LocalizationSettings) -> list[dict[str, Any]]:
    statistics = um.Statistics.load(um.testbed.statistics_path())
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    entries = [entry for entry in um.testbed.planted() if entry.mode != "rare"]
    warm_up = entries[0].prompt
    um.localize(model, warm_up, statistics=statistics, threshold=threshold, settings=settings)
    rows: list[dict[str, Any]] = []
    for entry in entries:
        if len(rows) < count:
            row = compare(model, entry.prompt, statistics, threshold, settings)
            if row is not None:
                rows.append({**row, "kind": entry.prompt.kind, "mode": entry.mode})
    return rows


def compare(
    model: um.Model,
    prompt: um.Prompt,
    statistics: um.Statistics,
    threshold: um.Threshold,
    settings: um.LocalizationSettings,
) -> dict[str, Any] | None:
    """Localize a prompt by the published procedure and both of ours; None if not memorized."""
    searched = list(select_value_layers(model.value_layers, settings.layers))
    published = PublishedLocalization(model, statistics, threshold, settings, searched)
    with peak() as most:
        reference = published.localize(prompt.text)
    if not reference.memorized:
        return None
    row: dict[str, Any] = {
        "prompt": prompt.text,
        "candidates": len(reference.initial),
        "published": {
            "samples": sum(reference.evaluations.values()),
            "weighted": float(sum(reference.evaluations.values())),
            "seconds": sum(reference.seconds.values()),
            "neurons": len(reference.neurons),
            "score": reference.score,
            "peak MiB": most[0],
            **{f"{stage} samples": float(spent) for stage, spent in reference.evaluations.items()},
            **{f"{stage} seconds": spent for stage, spent in reference.seconds.items()},
        },
    }
    for method in METHODS:
        began = time.perf_counter()
        chosen = replace(settings, refinement=method)
        passes: list[int] = []
        with peak() as most:
            found = um.localize(
                model,
                prompt,
                statistics=statistics,
                threshold=threshold,
                settings=chosen,
                progress=lambda done, _, passes=passes: passes.append(done),  # type: ignore[misc]
            )
        row[method] = {
            "samples": found.evaluations,
            "passes": len(passes),
            "peak MiB": most[0],
            "weighted": found.work,
            "seconds": time.perf_counter() - began,
            "neurons": len(found.neurons),
            "score": found.score,
            "equal": found.neurons == reference.neurons,
            "jaccard": jaccard(found.neurons, reference.neurons),
            "minimal": found.minimal,
            "below": found.score is not None
            and found.threshold is not None
            and (found.score < found.threshold or bool(found.theta_exhausted)),
            "theta": found.theta,
            "recorded MiB": found.recorded_bytes / 1024**2,
            **{f"{stage} samples": spent.work for stage, spent in found.spent.items()},
            **{f"{stage} seconds": spent.seconds for stage, spent in found.spent.items()},
        }
        row["theta_exhausted"] = found.theta_exhausted
    return row


@contextmanager
def peak() -> Iterator[list[float]]:
    """Measure the most MiB that the process takes in the context, beyond what it had before.

    The list holds the result when the context has ended; it is NaN where there is no /proc.
    """
    status, most = Path("/proc/self/status"), [math.nan]

    def kib(name: str) -> float:
        lines = status.read_text().splitlines()
        line = next(line for line in lines if line.startswith(name))
        return float(line.split()[1])

    if not status.exists():
        yield most
        return
    Path("/proc/self/clear_refs").write_text("5")  # the highest use so far is the present one
    before = kib("VmRSS")
    yield most
    most[0] = (kib("VmHWM") - before) / 1024


def jaccard(one: um.Neurons, other: um.Neurons) -> float:
    """Divide what two sets share by their union; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one | other else 1.0


def ideas(
    model: um.Model, rows: list[dict[str, Any]], settings: um.LocalizationSettings
) -> dict[str, Any]:
    """Measure what the single ideas rest on.

    They are the share of a forward that runs behind each layer, the tests of one prompt, and its
    scores by two rankings.
    """
    statistics = um.Statistics.load(um.testbed.statistics_path())
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    prompt = max(without_exhausted_theta(rows), key=lambda row: row["candidates"])["prompt"]
    with traced() as (tests, evaluators):
        found = um.localize(
            model, prompt, statistics=statistics, threshold=threshold, settings=settings
        )
    evaluator = evaluators[-1]
    probe = make_probe(model, model.encode([prompt]), settings.noise)
    z_scores = statistics.z_scores(
        {path: value[0] for path, value in activations(model, probe.text).items()}
    )
    effects = evaluator.effects(found.initial)
    by_z = {(path, index): float(z_scores[path][index]) for path, index in found.initial}
    sizes = [size for size in (0, 1, 2, 4, 8, 16, 32, 64, 128) if size < len(found.initial)] + [
        len(found.initial)
    ]
    curves = {
        name: [
            evaluator.score(
                um.Neurons.of(sorted(found.initial, key=ranking.__getitem__, reverse=True)[:size])
            )
            for size in sizes
        ]
        for name, ranking in {"z-score": by_z, "backward pass": effects}.items()
    }
    searched = list(model.value_layers)
    plan = model.replay_plan(searched, threshold.settings.seeds)
    return {
        "prompt": prompt,
        "threshold": found.threshold,
        "tests": tests,
        "sizes": sizes,
        "curves": curves,
        "share": {path: plan.cost(path) for path in searched},
    }


@contextmanager
def traced() -> Iterator[tuple[list[dict[str, Any]], list[Evaluator]]]:
    """Record every test that evaluators make in the context.

    A test has the number of neurons that were off, the weighted samples it took, and whether it
    passed.
    """
    tests: list[dict[str, Any]] = []
    evaluators: list[Evaluator] = []
    original = Evaluator.below

    def below(self: Evaluator, neurons: um.Neurons, limit: Limit) -> float | None:
        before = self._passes.meter.weighted
        found = original(self, neurons, limit)
        evaluators.append(self)
        tests.append(
            {
                "off": len(neurons),
                "samples": self._passes.meter.weighted - before,
                "passed": found is not None,
            }
        )
        return found

    with patch.object(Evaluator, "below", below):
        yield tests, evaluators


def precision() -> dict[str, Any]:
    """Measure the time of a sample by batch, type and memory layout, in milliseconds.

    Counts also how many verdicts bfloat16 changes.
    """
    prompts = [um.Prompt(text) for text in um.testbed.captions("test")]
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    times: dict[str, dict[int, float]] = {}
    verdicts: dict[str, list[bool]] = {}
    batches = (1, 2, 4, 8, 16, 32)
    for dtype in ("float32", "bfloat16"):
        model = um.Model.load("testbed", dtype=dtype)
        own = um.Threshold.given(model, threshold.detect.tau, threshold.settings)
        verdicts[dtype] = [
            found.memorized
            for found in detect_prompts(model, prompts, own, own.settings, stop="never")
        ]
        times[dtype] = {batch: milliseconds(model, batch) for batch in batches}
        model.pipe.unet.to(memory_format=torch.channels_last)
        times[f"{dtype}, channels last"] = {batch: milliseconds(model, batch) for batch in batches}
    differing = sum(
        one != other for one, other in zip(verdicts["float32"], verdicts["bfloat16"], strict=True)
    )
    for name, by_batch in times.items():
        print(
            f"{name}: "
            + ", ".join(
                f"{value:.1f} ms per sample of {batch}" for batch, value in by_batch.items()
            )
        )
    print(f"bfloat16 changes {differing} of {len(prompts)} verdicts")
    return {"milliseconds": times, "differing": differing, "prompts": len(prompts)}


def milliseconds(model: um.Model, batch: int) -> float:
    latents, timestep = model.draw_latents(batch, 1), model.timesteps(50)[1]
    text = model.encode(["a photo"] * batch)
    taken = []
    for _ in range(7):
        began = time.perf_counter()
        model.predict(latents, timestep, text)  # waits for a card, as it looks for NaN
        taken.append(time.perf_counter() - began)
    return stats.median(taken) * 1000 / batch


def full_size_rows() -> list[dict[str, Any]]:
    """Measure the U-Net of Stable Diffusion 1.4 with random weights.

    It is for costs alone, hence two seeds, two layers, and a threshold that all seeds pass.
    """
    model = um.Model(stable_diffusion_1())
    texts = [f"{word} {number}" for word in ("a", "b", "c") for number in range(6)]
    statistics = um.compute_statistics(model, texts)
    noise = um.NoiseSettings(seeds=2)
    settings = um.LocalizationSettings(
        noise=noise,
        layers="down_blocks.2.*",
        theta=1e6,
        theta_floor=1e6 - 0.2,  # one step of the selection
        top_k=1,
    )
    threshold = um.Threshold.given(model, 1e-6, noise)
    row = compare(model, um.Prompt("zebra quartz"), statistics, threshold, settings)
    return [{**row, "kind": "random", "mode": "SD 1.4 U-Net"}] if row else []


def ratio(rows: list[dict[str, Any]], method: str) -> float:
    """Take the median over prompts of published samples / ours, weighted."""
    return float(
        stats.median(row["published"]["weighted"] / row[method]["weighted"] for row in rows)
    )


def grouped(rows: list[dict[str, Any]]) -> dict[tuple[str, str, bool], list[dict[str, Any]]]:
    """Group rows by kind, by how the prompt was planted, and by whether theta was exhausted."""
    groups: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["mode"], row["theta_exhausted"]), []).append(row)
    return groups


def show(rows: list[dict[str, Any]]) -> None:
    names = ("samples", "weighted", "seconds", "neurons", "score", "peak MiB")
    for (kind, mode, exhausted), some in grouped(rows).items():
        title = f"{kind} {mode}{', theta exhausted' if exhausted else ''}"
        candidates = stats.median(row["candidates"] for row in some)
        print(f"{title}: {len(some)} prompts, {candidates:g} candidates")
        print(
            " " * 12
            + "".join(f"{name:>10}" for name in (*names, "equal", "jaccard", "ratio", "time"))
        )
        for method in ("published", *METHODS):
            cells = [row[method] for row in some]
            shown = [stats.median(cell[name] for cell in cells) for name in names]
            if method != "published":
                shown += [stats.mean(cell[name] for cell in cells) for name in ("equal", "jaccard")]
                shown += [
                    ratio(some, method),
                    stats.median(
                        row["published"]["seconds"] / row[method]["seconds"] for row in some
                    ),
                ]
            print(f"  {method:10}" + "".join(f"{value:10.3g}" for value in shown))
        recorded = max(row["bisect"]["recorded MiB"] for row in some)
        print(f"  recorded outputs: {recorded:.0f} MiB at most")
        for stage in ("detection", "selection", "refinement"):
            spent = [
                stats.median(row[method][f"{stage} samples"] for row in some)
                for method in ("published", *METHODS)
            ]
            print(f"  {stage} samples, weighted: " + ", ".join(f"{value:.3g}" for value in spent))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--prompts", type=int, default=34)
    parser.add_argument("--criterion", choices=("seeds", "unblocked"))
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    main(given.prompts, given.criterion, given.full_size, given.json)
