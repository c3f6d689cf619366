"""What each stage of localization costs, compared with the published procedure.

python benchmarks/localization.py [--per-kind N | --all] [--criterion seeds|unblocked] [--full-size]
    [--json FILE]

Runs on the bundled model and, if asked to, on a full-size U-Net. Prints medians over memorized
prompts of seconds and of denoiser samples. A sample is one initial noise through one forward of the
denoiser; "weighted" counts the share of the forward's multiply-adds that ran. The last line has the
ratios published / ours: of bisect over the prompts on which theta is not exhausted, of detection
over unmemorized prompts. Without --all, N prompts of each kind are measured, drawn with a fixed
seed, and every fifth test caption. The file is written after each prompt, and the same command goes
on with one that it did not finish, unless the package has changed. benchmarks/costs.py and
benchmarks/performance.py read the file. The bundled model is on a card where there is one, and so
are its seconds; MiB are those of the process, without the card. The full-size U-Net stays on the
processor.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import resource
import statistics as stats
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import unmemorize as um
from detection import default_detection, detection
from full_size import stable_diffusion_1
from localization_ideas import ideas, precision
from published import PublishedLocalization
from unmemorize.localization import Criterion, RefinementMethod
from unmemorize.pipelines import select_value_layers

METHODS: tuple[RefinementMethod, ...] = ("complete", "greedy", "bisect")
PER_KIND = 3
_EVERY = 5
"""Of the test captions, one of so many is detected unless all are."""


def main(
    per_kind: int | None, criterion: Criterion | None, full_size: bool, output: Path | None
) -> None:
    """Measure so many prompts of each kind; None for all."""
    model = um.Model.load("testbed", dtype="float32")
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    settings = um.LocalizationSettings(
        noise=threshold.settings,
        seed_threshold=threshold.localize.tau,  # the published code has one number for all
        criterion=criterion or um.testbed.defaults()["criterion"],
    )
    report = begun(output, [model.fingerprint, settings.criterion, str(per_kind)])
    report["criterion"] = settings.criterion
    keep = partial(write, report, output)
    rows: list[dict[str, Any]] = report.setdefault("bundled", [])
    bundled(model, sampled(per_kind), settings, rows, keep)
    show([row for row in rows if row["memorized"]])
    report["bundled"] = rows = [row for row in rows if row["memorized"]]
    captions = len(um.testbed.captions("test")) // (_EVERY if per_kind else 1)
    longest = max(without_exhausted_theta(rows), key=lambda row: row["candidates"])["prompt"]
    parts: dict[str, Callable[[], Any]] = {
        "detection": lambda: detection(model, captions),
        "default detection": lambda: default_detection(model, captions),
        "ideas": lambda: ideas(model, longest, replace(settings, refinement="bisect")),
        "precision": lambda: precision(captions),
    }
    if full_size:
        parts["full size"] = full_size_rows
    for name, measure in parts.items():
        if name not in report:
            report[name] = measure()
            keep()
    if full_size:
        show(report["full size"])
    report["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    report["finished"] = True
    keep()
    print(f"peak memory {report['peak GiB']:.2f} GiB")
    minimal = sum(row["bisect"]["minimal"] and row["bisect"]["below"] for row in rows)
    same_theta = sum(row["bisect"]["theta"] == row["greedy"]["theta"] for row in rows)
    print(
        f"bisect: {minimal} of {len(rows)} sets below the threshold with no neuron that can go; "
        f"{same_theta} end the selection at the same step as one by one"
    )
    found, equal = report["detection"], stats.mean(row["greedy"]["equal"] for row in rows)
    print(
        f"ratios greedy={ratio(rows, 'greedy'):.1f} "
        f"bisect={ratio(without_exhausted_theta(rows), 'bisect'):.1f} "
        f"detect={found['published'] / found['ours']:.1f} greedy_equal={equal:.3f}"
    )


def begun(output: Path | None, measured: list[str]) -> dict[str, Any]:
    """Return what an unfinished file holds of the same measurement by the same code, or nothing."""
    code = hashlib.sha256()
    for path in sorted(Path(um.__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    inputs = [*measured, code.hexdigest()]
    if output is not None and output.exists():
        report: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        if report.get("inputs") == inputs and not report.get("finished"):
            print(f"{output}: goes on after {len(report['bundled'])} prompts")
            return report
    return {"inputs": inputs}


def write(report: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=1), encoding="utf-8")


def sampled(per_kind: int | None) -> list[um.testbed.Planted]:
    """Return the plants that are measured: so many of each kind and way of planting."""
    groups: dict[tuple[str, str], list[um.testbed.Planted]] = {}
    for entry in um.testbed.planted():
        if entry.mode != "rare":
            groups.setdefault((str(entry.prompt.kind), entry.mode), []).append(entry)
    draw = Random(0)
    return [
        entry
        for group in groups.values()
        for entry in (group if per_kind is None else draw.sample(group, min(per_kind, len(group))))
    ]


def without_exhausted_theta(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if not row["theta_exhausted"]] or rows


def bundled(
    model: um.Model,
    entries: list[um.testbed.Planted],
    settings: um.LocalizationSettings,
    rows: list[dict[str, Any]],
    keep: Callable[[], None],
) -> None:
    """Add a row for each plant that has none yet, also for those that are not memorized."""
    statistics = um.Statistics.load(um.testbed.statistics_path())
    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    um.localize(
        model, entries[0].prompt, statistics=statistics, threshold=threshold, settings=settings
    )  # warms up
    done = {row["prompt"] for row in rows}
    for entry in entries:
        if entry.prompt.text not in done:
            row = compare(model, entry.prompt, statistics, threshold, settings)
            known = {"kind": entry.prompt.kind, "mode": entry.mode, "known": len(entry.neurons)}
            rows.append({"prompt": entry.prompt.text, "memorized": bool(row), **known, **row})
            keep()


def compare(
    model: um.Model,
    prompt: um.Prompt,
    statistics: um.Statistics,
    threshold: um.Threshold,
    settings: um.LocalizationSettings,
) -> dict[str, Any]:
    """Localize a prompt by the published procedure and by ours; nothing if it is not memorized."""
    searched = list(select_value_layers(model.value_layers, settings.layers))
    published = PublishedLocalization(model, statistics, threshold, settings, searched)
    with peak() as most:
        reference = published.localize(prompt.text)
    if not reference.memorized:
        return {}
    row: dict[str, Any] = {
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
        row["theta_exhausted"] = bool(found.theta_exhausted)
        row["least"] = settings.noise.seeds + len(found.seeds)
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
    return [{"kind": "random", "mode": "SD 1.4 U-Net", **row}] if row else []


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
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument("--per-kind", type=int, default=PER_KIND, help="prompts of each kind")
    how_many.add_argument("--all", action="store_true", help="all prompts and captions")
    parser.add_argument("--criterion", choices=("seeds", "unblocked"))
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    main(None if given.all else given.per_kind, given.criterion, given.full_size, given.json)
