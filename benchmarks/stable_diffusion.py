"""Repeat the paper's table on Stable Diffusion 1.4, for whoever has its weights and a GPU.

    python benchmarks/stable_diffusion.py MODEL PROMPTS WORK [STATISTICS]

MODEL is a Hub id or a diffusers folder. PROMPTS is the folder ``prompts`` of the published code
(github.com/ml-research/localizing_memorization_in_diffusion_models), with
memorized_laion_prompts.csv and unmemorized_laion_prompts.csv. STATISTICS is the published file of
activation statistics (.pt). Without it, they are measured on captions of this package.

Every step is a command of this package, and each is printed before it runs. The same call resumes.
SSCD, CLIP and the training images are downloaded; most published addresses of images are dead, so
SSCD_Orig covers fewer prompts than in the paper. The table goes to WORK/table.md, beside published
numbers, which are marked as such. We have not run this: no machine of ours holds these weights.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unmemorize.cli import main
from unmemorize.report._results import SET_LABELS

KINDS = ("VM", "TM")
PUBLISHED = {
    "all active": {
        "VM": {"SSCD_Orig": ".83", "SSCD_Gen": "1.0", "D_SSCD": ".99", "A_CLIP": ".32"},
        "TM": {"SSCD_Orig": ".04", "SSCD_Gen": "1.0", "D_SSCD": ".17", "A_CLIP": ".31"},
    },
    "NeMo": {
        "VM": {"SSCD_Orig": ".09", "SSCD_Gen": ".10", "D_SSCD": ".16", "A_CLIP": ".31"},
        "TM": {"SSCD_Orig": ".05", "SSCD_Gen": ".05", "D_SSCD": ".12", "A_CLIP": ".31"},
    },
    "without refinement": {
        "VM": {"SSCD_Orig": ".07", "SSCD_Gen": ".11"},
        "TM": {"SSCD_Orig": ".04", "SSCD_Gen": ".09"},
    },
    "random neurons": {
        "VM": {"SSCD_Orig": ".80", "SSCD_Gen": ".999", "D_SSCD": ".99", "A_CLIP": ".32"},
        "TM": {"SSCD_Orig": ".05", "SSCD_Gen": ".997", "D_SSCD": ".16", "A_CLIP": ".31"},
    },
}
"""The paper's table: medians by heading."""
TAU = "0.428"
"""The paper's threshold for Stable Diffusion 1.4."""
CLIP = "openai/clip-vit-base-patch32"
SETS = {
    "original": "all active",
    "refined": "NeMo",
    "initial": "without refinement",
    "random-refined": "random neurons",
}
"""Sets of images, each with the name of its row in the paper's table."""
METRICS = ("SSCD_Orig", "SSCD_Gen", "D_SSCD", "A_CLIP")
MAY_FAIL = ("fetch", "images")
"""The step that goes on without some or all of its files."""


def steps(model: str, prompts: Path, work: Path, statistics: Path | None) -> Iterator[list[str]]:
    """Yield the commands, in order."""
    memorized = prompts / "memorized_laion_prompts.csv"
    unmemorized = prompts / "unmemorized_laion_prompts.csv"
    measured, run = work / "statistics.safetensors", work / "run"
    bound = ["--model", model]
    published = ["--published", "--tau", TAU]
    if statistics is not None:
        yield ["import-upstream", f"{statistics}", *bound, "-o", f"{measured}"]
    else:
        yield ["statistics", *bound, "-o", f"{measured}"]
    asked = ["--prompts", f"{memorized}", "--unmemorized", f"{unmemorized}"]
    yield ["detect", *bound, *published, *asked, "-o", f"{work / 'detections'}"]
    found = ["--prompts", f"{memorized}", "--statistics", f"{measured}"]
    yield ["localize", *bound, *published, *found, "-o", f"{run}"]
    sets = [word for name in SETS for word in ("--neurons", name)]
    yield ["generate", f"{run}", *bound, *sets]
    yield ["fetch", "sscd", "-o", f"{work / 'sscd.pt'}"]
    yield [*MAY_FAIL, f"{memorized}", "-o", f"{work / 'originals'}"]
    instruments = ["--sscd", f"{work / 'sscd.pt'}", "--clip", CLIP]
    references = ["--references", f"{work / 'originals'}"]
    yield ["evaluate", f"{run}", "--published", *instruments, *references]
    yield ["report", f"{run}"]


def table(metrics: dict[str, Any]) -> str:
    """Write our numbers beside the published ones.

    Args:
        metrics: the content of RUN/metrics.json.
    """
    rows = {row["label"]: row["cells"] for row in metrics["rows"]}
    lines = []
    for kind in KINDS:
        lines += [f"## {kind}", "", f"| | {' | '.join(METRICS)} |", "|---" * 5 + "|"]
        for name, theirs in SETS.items():
            ours = SET_LABELS[name]
            cells = [rows.get(f"{metric}, {ours}", {}).get(kind, {}) for metric in METRICS]
            figures = [cell.get("figure", "") for cell in cells]
            lines.append(f"| {ours} | {' | '.join(figures)} |")
            paper = PUBLISHED[theirs][kind]
            values = [paper.get(metric, "") for metric in METRICS]
            lines.append(f"| *published: {theirs}* | {' | '.join(values)} |")
        lines.append("")
    return "\n".join(lines)


def run_all(model: str, prompts: Path, work: Path, statistics: Path | None) -> int:
    """Run every step, then write the table; return the exit code."""
    for words in steps(model, prompts, work, statistics):
        print(f"$ unmemorize {shlex.join(words)}", flush=True)
        code = main(words)
        if code and tuple(words[:2]) != MAY_FAIL:
            return code
    metrics = json.loads((work / "run" / "metrics.json").read_text(encoding="utf-8"))
    (work / "table.md").write_text(table(metrics), encoding="utf-8")
    print(work / "table.md")
    return 0


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    given = [Path(word) for word in sys.argv[2:]]
    sys.exit(run_all(sys.argv[1], given[0], given[1], given[2] if len(given) > 2 else None))
