"""The page on what localization costs, from measurements: python benchmarks/performance.py MEASURED.json [docs/performance.md]

MEASURED.json comes from benchmarks/localization.py --json. Writes the page and, beside it, one picture for each idea.
"""

from __future__ import annotations

import json
import statistics as stats
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from localization import METHODS, grouped, ratio, without_exhausted_theta

STAGES = ("detection", "selection", "refinement")
Rows = list[dict[str, Any]]


def main(measured: Path, page: Path) -> None:
    report = json.loads(measured.read_text(encoding="utf-8"))
    for row in report["bundled"]:
        row["theta_exhausted"] = bool(row["theta_exhausted"])
    pictures = page.parent / "images"
    for name, draw in {
        "stages": stages,
        "replay": replay,
        "exits": exits,
        "ranking": ranking,
        "cascade": cascade,
        "batches": batches,
    }.items():
        figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
        draw(axes, report)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(pictures / f"performance-{name}.png", dpi=110)
        plt.close(figure)
    page.write_text(text(report), encoding="utf-8")
    print(page)


def stages(axes: Axes, report: dict[str, Any]) -> None:
    names, groups = [], grouped(report["bundled"])
    for place, ((kind, mode, floor), rows) in enumerate(groups.items()):
        total = stats.median(row["published"]["weighted"] for row in rows)
        for line, method in enumerate(("published", *METHODS)):
            left = 0.0
            for stage, colour in zip(STAGES, ("#4c78a8", "#f2a541", "#b5475d"), strict=True):
                width = stats.median(row[method][f"{stage} samples"] for row in rows) / total
                axes.barh(
                    4 * place + line,
                    width,
                    left=left,
                    color=colour,
                    label=stage if not place and not line else None,
                )
                left += width
            names.append(
                (
                    4 * place + line,
                    f"{kind} {mode}{' (floor)' if floor else ''}, {method}" if not line else method,
                )
            )
    plt.gcf().set_size_inches(7, 0.4 + 0.62 * len(groups))
    axes.set_yticks([place for place, _ in names], [name for _, name in names], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("weighted denoiser samples, as a share of the published procedure's (medians)")
    axes.legend(fontsize=8, loc="lower right")


def replay(axes: Axes, report: dict[str, Any]) -> None:
    share = report["ideas"]["share"]
    axes.bar(range(len(share)), list(share.values()), color="#4c78a8")
    axes.set_xticks(
        range(len(share)),
        [
            path.split(".transformer")[0].replace("_blocks", "").replace("attentions.", "")
            for path in share
        ],
        rotation=45,
        fontsize=7,
    )
    axes.set_ylabel("share that runs")
    axes.set_xlabel("first layer in which something changed")


def exits(axes: Axes, report: dict[str, Any]) -> None:
    tests = report["ideas"]["tests"]
    for passed, colour in ((True, "#2a7f62"), (False, "#b5475d")):
        some = [
            (place, test["samples"]) for place, test in enumerate(tests) if test["passed"] == passed
        ]
        axes.bar(
            [place for place, _ in some],
            [samples for _, samples in some],
            color=colour,
            label="passed" if passed else "failed",
        )
    axes.set_xlabel("test of a set of neurons, in the order in which they were made")
    axes.set_ylabel("weighted samples")
    axes.legend(fontsize=8)


def ranking(axes: Axes, report: dict[str, Any]) -> None:
    ideas = report["ideas"]
    for name, curve in ideas["curves"].items():
        axes.plot(ideas["sizes"], curve, marker="o", label=f"ranked by {name}")
    axes.axhline(ideas["threshold"], color="grey", linestyle="--", label="threshold")
    axes.set_xscale("symlog")
    axes.set_xlim(0)
    axes.set_xlabel("how many of the first candidates stay off")
    axes.set_ylabel("score")
    axes.legend(fontsize=8)


def cascade(axes: Axes, report: dict[str, Any]) -> None:
    found = report["detection"]
    axes.scatter(found["two seeds"], found["ten seeds"], s=6, color="#4c78a8")
    axes.axhline(found["tau"], color="grey", linestyle="--", label="tau")
    axes.axvline(found["two seeds stop"], color="#b5475d", label="the cascade stops left of it")
    axes.set_xlabel("similarity of the first two seeds")
    axes.set_ylabel("highest of all ten")
    axes.legend(fontsize=8)


def batches(axes: Axes, report: dict[str, Any]) -> None:
    for name, by_batch in report["precision"]["milliseconds"].items():
        axes.plot(
            [int(batch) for batch in by_batch], list(by_batch.values()), marker="o", label=name
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0)
    axes.set_xlabel("samples in one pass")
    axes.set_ylabel("ms per sample")
    axes.legend(fontsize=8)


COLUMNS = (
    *(
        "prompts",
        "candidates",
        "",
        "samples",
        "weighted",
        "seconds",
        "neurons left",
        "score",
        "MiB",
    ),
    *("equal sets", "Jaccard", "published / ours"),
)


def table(rows: Rows) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for (kind, mode, floor), some in grouped(rows).items():
        first = [
            f"{len(some)} {kind} {mode}{', floor' if floor else ''}",
            f"{stats.median(row['candidates'] for row in some):g}",
        ]
        for method in ("published", *METHODS):
            cells = [row[method] for row in some]
            names = ("samples", "weighted", "seconds", "neurons", "score", "peak MiB")
            middle = [f"{stats.median(cell[name] for cell in cells):.4g}" for name in names]
            agreement = ["", "", ""]
            if method != "published":
                agreement = [
                    f"{stats.mean(cell['equal'] for cell in cells):.0%}",
                    f"{stats.mean(cell['jaccard'] for cell in cells):.2f}",
                ]
                agreement.append(f"**{ratio(some, method):.1f}**")
            lines.append("| " + " | ".join([*first, method, *middle, *agreement]) + " |")
            first = ["", ""]
    return "\n".join(lines)


def limit_of(rows: Rows) -> str:
    """What no refinement can save: all seeds unblocked, and one passing test of the candidates."""
    some = without_exhausted_theta(rows)
    least = [
        row["published"]["weighted"]
        / (row["bisect"]["detection samples"] + row["bisect"]["selection samples"])
        for row in some
    ]
    return f"{stats.median(least):.1f}"


def text(report: dict[str, Any]) -> str:
    rows, found, precision = (report[name] for name in ("bundled", "detection", "precision"))
    some = without_exhausted_theta(rows)
    sets = [row["bisect"]["neurons"] / max(1, row["published"]["neurons"]) for row in some]
    fewest = min(precision["milliseconds"]["float32"].values())
    half = min(precision["milliseconds"]["bfloat16"].values())
    last = min(precision["milliseconds"]["float32, channels last"].values())
    full = (
        ""
        if "full size" not in report
        else f"""
Stable Diffusion 1.4's U-Net in full size with random weights (two seeds, two layers; costs only):

{table(report["full size"])}
"""
    )
    changed = precision["differing"]
    size = sum(row["bisect"]["samples"] for row in rows) / sum(
        row["bisect"]["passes"] for row in rows
    )
    by_batch = {int(batch): taken for batch, taken in precision["milliseconds"]["float32"].items()}
    here = float(np.interp(size, sorted(by_batch), [by_batch[batch] for batch in sorted(by_batch)]))
    taken = ", ".join(f"{count} after {seeds}" for seeds, count in found["seeds taken"].items())
    return f"""# What localization costs

Written by `make bench` (`benchmarks/localization.py`, then `benchmarks/performance.py`): a plain transcription of the published procedure
(`benchmarks/published.py`) and the package, in one run on one machine, on the bundled model, criterion `{
        report["criterion"]
    }`. The unit is
one *denoiser sample*: one initial noise through one forward of the denoiser, weighted by the share of the forward's multiply-adds that ran.
`unmemorize localize --profile` prints the same for your own run.

| published / ours, weighted samples (median over prompts) | measured | aimed at |
|---|---|---|
| greedy, the same neurons for {
        stats.mean(row["greedy"]["equal"] for row in rows):.0%} of prompts | {
        ratio(rows, "greedy"):.1f} | 4 |
| bisect, {len(some)} prompts on which theta does not reach its floor | {
        ratio(some, "bisect"):.1f} | 15 |
| detection of unmemorized prompts: mean samples, and of the median prompt | {
        found["published"] / found["ours"]:.1f}, {found["published"] / found["median"]:.1f} | 8 |

{table(rows)}

Medians over the prompts of a row; MiB is what the process took at most beyond what it had before. Peak memory of the whole process
{report["peak GiB"]:.2f} GiB; recorded outputs
{max(row["bisect"]["recorded MiB"] for row in rows):.0f} MiB at most. Sets of bisect have {
        stats.median(sets):.2f} times the neurons of the
published ones (median); each one is below its threshold with no neuron that can be switched on again
({sum(row["bisect"]["minimal"] and row["bisect"]["below"] for row in rows)} of {len(rows)}).
{full}
## Where the limit lies

*Bisect.* Even a refinement that cost nothing would save no more than a factor of {
        limit_of(rows)
    } (median): all seeds must run once
unblocked, since the kept ones are told by them, and the candidates must be seen to pass once with all kept seeds. Most memorized prompts of
the bundled model have so few candidates ({
        stats.median(
            row["candidates"] for row in some
        ):g} in the median) that the published procedure
itself makes few tests. Where memory is spread over many neurons, what is left of the cost are the tests that show, one by one, that no
neuron of the result can go.

*Detection.* Two seeds are the least that can be compared, which bounds the factor by 10. Of the unmemorized
prompts {
        taken
    } seeds were done: the mean is that of the few which stay between the levels to the end.
Stopping earlier changes more verdicts: {found["differing"]} of {found["prompts"]} ({
        found["differing"] / found["prompts"]:.2%}) differ from
those of all ten seeds now, and 1 % is the bound.

## The ideas

**One pass, nothing twice.** The published procedure runs the denoiser at two timesteps and uses one, runs it again for activations that
need the text encoder and the value layers alone, and computes the unblocked noise differences in each stage.

![Samples by stage](images/performance-stages.png)

**Replay.** What runs before the first layer in which something changed gives the same outputs as before; they are recorded and returned.
Once per model it is checked that this changes no bit of the output, else it is off.

![Share of a forward that runs](images/performance-replay.png)

**Early exit.** A test fails as soon as its answer is known: under the criterion `unblocked` at the first seed above the threshold, the most
telling seed first; under `seeds` as soon as the pairs known so far make the mean too high. These are the tests of one prompt:

![Samples of each test](images/performance-exits.png)

**Order.** The 1, 2 or 4 candidates with the highest z-scores are tried alone; then one backward pass ranks all by how fast the score
rises when each is switched on again, and the fewest of the first that are enough are found by bisection. The same prompt:

![Score by ranking](images/performance-ranking.png)

Groups of candidates that are switched on together were tried before: where memory is spread, nearly every group fails, and the tests cost
more than greedy refinement. Under `seeds` the initial selection bisects over theta as well; under `unblocked`, where a failing test
costs one seed of ten, it goes step by step.

**Cascade.** `detect --cascade` begins with the two seeds that told most in the calibration of the threshold, then a third, a fourth, a
sixth. It stops above tau, which more seeds cannot change, and below a level under which no calibration prompt lies that all seeds
call memorized.

![Two seeds and ten](images/performance-cascade.png)

**Batches.** Detection batches seeds across prompts. Localization batches the seeds of a test, {
        size:.1f} samples in a pass on average
(bisect); a sample then takes {here:.1f} ms on this machine, where passes of 32 take {
        fewest:.1f}. So much is what passes that go across
prompts would save here at the most. They do not exist: several workers on one device (`--workers`) fill it as well, and leave the records
of a prompt independent of those beside it. Half precision and memory layout were measured: bfloat16 takes {
        half:.1f} ms per sample where
float32 takes {fewest:.1f} and channels-last float32 {last:.1f}; it changes {changed} of {
        precision["prompts"]
    } verdicts
({
        changed
        / precision[
            "prompts"
        ]:.1%}). So neither is on by itself: `--dtype bfloat16` is there where a processor is fast with it, with a
threshold calibrated in the same type.

![Milliseconds per sample](images/performance-batches.png)
"""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/performance.md"))
