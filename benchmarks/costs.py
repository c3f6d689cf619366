"""What each step costs against the least that its question needs, and the published procedure.

python benchmarks/costs.py MEASURED.json

The file comes from benchmarks/localization.py. Prints a table with a line for each step and kind of
prompt: weighted denoiser samples and seconds as minimum, median and maximum over prompts. The least
is two samples for detection, since one seed has nothing to be compared with, and for localization
one pass of all seeds with nothing off and one pass of the seeds that localization looks at with
neurons off. The last line holds what is to be low: samples of detection by the default detector
(means), cost / least of localization (medians), and what is to be high: published / ours of greedy
refinement, and the share of its sets that are equal, over prompts with at least 16 candidates.
Seconds are those of the device that the file was made on. A second table has what the committed
mitigations of the bundled model took (records/mitigation*.json), of which the least is their
certificates, and a third one how long it takes to start.
"""

from __future__ import annotations

import json
import resource
import statistics as stats
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FEW = 16
"""Candidates below which the published procedure makes too few tests to be compared with."""
RECORDS = sorted((Path(__file__).parent / "records").glob("mitigation*.json"))
STARTS = 3
Rows = list[dict[str, Any]]
HEADER = (
    "| step | kind | prompts | least | samples | cost / least | published | published / ours | "
    "seconds | seconds published |"
)


def main(measured: Path) -> None:
    report = json.loads(measured.read_text(encoding="utf-8"))
    print(table(report))
    print(f"\n{mitigation_table(RECORDS)}\n\n{start_table()}\n")
    print(summary(report))


def table(report: dict[str, Any]) -> str:
    """Return a line for each step and kind of prompt."""
    kinds = by_kind(report["bundled"]).items()
    lines = [
        HEADER,
        "|---" * HEADER.count(" | ") + "|---|",
        *(default_line(kind, report["default detection"]) for kind in ("ordinary", "memorized")),
        *(
            detection_line(kind, rows)
            for kind, rows in by_kind(report["detection"]["rows"]).items()
        ),
        *(localization_line("localize", "complete", kind, rows) for kind, rows in kinds),
        *(localization_line("greedy", "greedy", kind, rows) for kind, rows in kinds),
    ]
    return "\n".join(lines)


def mitigation_table(records: Sequence[Path]) -> str:
    """Return lines for what each mitigation took for its prompts, and for ordinary images."""
    lines = [
        "| mitigation | prompts | images of a prompt | samples of a prompt | cost / least | "
        "ordinary images in all | their samples |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        (found,) = (each for each in record["lines"] if each["name"] == "confirmed and removed")
        prompts = int(found["measured"].split()[2])  # such as 41 of 50 (68.6% to 91.4%)
        stages = record["costs"]
        ordinary = [each for each in stages if each["name"].startswith("ordinary images")]
        own = [each for each in stages if each not in ordinary]
        (least,) = (each["samples"] for each in own if each["name"] == "certificate")
        images, samples = (sum(each[unit] for each in own) for unit in ("images", "samples"))
        others = (sum(each[unit] for each in ordinary) for unit in ("images", "samples"))
        lines.append(
            line(
                path.stem, prompts, f"{images / prompts:.0f}", f"{samples / prompts:,.0f}",
                f"{samples / least:.2f}", *(f"{count:,}" for count in others),
            )
        )  # fmt: skip
    return "\n".join(lines)


def start_table() -> str:
    """Measure the processor time of starts, in seconds: the least of some."""
    lines = ["| start | seconds of a core |", "|---|---|"]
    starts = {
        "unmemorize --help": "from unmemorize.cli import run; run()",
        "import unmemorize": "import unmemorize",
    }
    for name, program in starts.items():
        least = min(_start(program) for _ in range(STARTS))
        lines.append(line(name, f"{least:.2f}"))
    return "\n".join(lines)


def _start(program: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", program, "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def summary(report: dict[str, Any]) -> str:
    """Return the last line."""
    many = [row for row in report["bundled"] if row["candidates"] >= FEW]
    greedy = [row["published"]["weighted"] / row["greedy"]["weighted"] for row in many]
    equal = [float(row["greedy"]["equal"]) for row in many]
    found = report["default detection"]
    spread = {
        known: [cost(row, "complete") for row in report["bundled"] if bool(row["known"]) is known]
        for known in (True, False)
    }
    values = {
        "detect": f"{found['ordinary']['samples']:.2f}",
        "detect_memorized": f"{found['memorized']['samples']:.2f}",
        "localize_memory": middle(spread[True], 2),
        "localize_spread": middle(spread[False], 2),
        "greedy": middle(greedy, 1),
        "greedy_equal": f"{stats.mean(equal):.3f}" if equal else "none",
    }
    return "costs " + " ".join(f"{name}={value}" for name, value in values.items())


def cost(row: dict[str, Any], method: str) -> float:
    """Return the weighted samples of a method, divided by the least."""
    return float(row[method]["weighted"] / row["least"])


def default_line(kind: str, found: dict[str, Any]) -> str:
    some, shared = found[kind], found["shared"]
    return line(
        f"detect by {found['detector']}", kind, some["prompts"], "2",
        f"{some['samples']:.3g}, and {shared} in all", f"{some['samples'] / 2:.3g}", "", "",
        spread_of(some["seconds"]), "",
    )  # fmt: skip


def detection_line(kind: str, rows: Rows) -> str:
    ours, theirs = ([row[name] for row in rows] for name in ("samples", "published"))
    ratio = stats.mean(theirs) / stats.mean(ours)
    return line(
        "detect by seed similarity", kind, len(rows), "2", spread_of(ours),
        spread_of([value / 2 for value in ours]), spread_of(theirs), f"{ratio:.1f}",
        spread_of([row["seconds"] for row in rows]), "",
    )  # fmt: skip


def localization_line(step: str, method: str, kind: str, rows: Rows) -> str:
    ours, theirs = ([row[name] for row in rows] for name in (method, "published"))
    ratios = [one["weighted"] / other["weighted"] for one, other in zip(theirs, ours, strict=True)]
    return line(
        step, kind, len(rows), spread_of([row["least"] for row in rows]),
        spread_of([one["weighted"] for one in ours]),
        spread_of([cost(row, method) for row in rows]),
        spread_of([one["weighted"] for one in theirs]), middle(ratios, 1),
        spread_of([one["seconds"] for one in ours]), spread_of([one["seconds"] for one in theirs]),
    )  # fmt: skip


def line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def spread_of(values: Sequence[float]) -> str:
    """Return minimum, median and maximum."""
    if not values:
        return ""
    return ", ".join(f"{value:.3g}" for value in (min(values), stats.median(values), max(values)))


def middle(values: Sequence[float], digits: int) -> str:
    return f"{stats.median(values):.{digits}f}" if values else "none"


def by_kind(rows: Sequence[dict[str, Any]]) -> dict[str, Rows]:
    """Group rows by the kind of prompt, which includes how it was planted."""
    groups: dict[str, Rows] = {}
    for row in rows:
        kind = row["kind"] if "mode" not in row else f"{row['kind']} {row['mode']}"
        groups.setdefault(kind, []).append(row)
    return groups


if __name__ == "__main__":
    main(Path(sys.argv[1]))
