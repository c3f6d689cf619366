"""Write the page on what localization costs, and one picture for each idea.

Call: python benchmarks/performance.py MEASURED.json [docs/performance.md]. MEASURED.json comes from
benchmarks/localization.py --json.
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

import costs
from localization import METHODS, grouped, ratio, without_exhausted_theta
from pages import filled

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
    for place, ((kind, mode, exhausted), rows) in enumerate(groups.items()):
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
                    f"{kind} {mode}{' (theta exhausted)' if exhausted else ''}, {method}"
                    if not line
                    else method,
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
    for (kind, mode, exhausted), some in grouped(rows).items():
        first = [
            f"{len(some)} {kind} {mode}{', theta exhausted' if exhausted else ''}",
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
    """Fill the page's template with the measurements."""
    rows, found, precision = (report[name] for name in ("bundled", "detection", "precision"))
    some = without_exhausted_theta(rows)
    sets = [row["bisect"]["neurons"] / max(1, row["published"]["neurons"]) for row in some]
    samples, passes = (sum(row["bisect"][name] for row in rows) for name in ("samples", "passes"))
    milliseconds = precision["milliseconds"]
    by_batch = {int(batch): taken for batch, taken in milliseconds["float32"].items()}
    batches = sorted(by_batch)
    here = float(np.interp(samples / passes, batches, [by_batch[batch] for batch in batches]))
    changed, verdicts = precision["differing"], precision["prompts"]
    return filled(
        "performance.md.j2",
        costs=costs.table(report),
        summary=costs.summary(report),
        mitigation=costs.mitigation_table(costs.RECORDS),
        criterion=report["criterion"],
        per_kind=report["inputs"][-2],
        greedy=f"{ratio([row for row in rows if row['candidates'] >= costs.FEW], 'greedy'):.1f}",
        table=table(rows),
        peak=f"{report['peak GiB']:.2f}",
        recorded=f"{max(row['bisect']['recorded MiB'] for row in rows):.0f}",
        sizes=f"{stats.median(sets):.2f}",
        minimal=sum(row["bisect"]["minimal"] and row["bisect"]["below"] for row in rows),
        all=len(rows),
        full_size=table(report["full size"]) if "full size" in report else "",
        limit=limit_of(rows),
        candidates=f"{stats.median(row['candidates'] for row in some):g}",
        seeds_taken=", ".join(
            f"{count} after {seeds}" for seeds, count in found["seeds taken"].items()
        ),
        differing=f"{found['differing']} of {found['prompts']} "
        f"({found['differing'] / found['prompts']:.2%})",
        pass_size=f"{samples / passes:.1f}",
        here=f"{here:.1f}",
        fewest=f"{min(milliseconds['float32'].values()):.1f}",
        half=f"{min(milliseconds['bfloat16'].values()):.1f}",
        last=f"{min(milliseconds['float32, channels last'].values()):.1f}",
        changed=f"{changed} of {verdicts} ({changed / verdicts:.1%})",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/performance.md"))
