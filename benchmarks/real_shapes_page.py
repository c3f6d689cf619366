"""Write the page on full-size models on a GPU.

python benchmarks/real_shapes_page.py [MEASURED.json] [docs/real-shapes.md]

MEASURED.json comes from benchmarks/real_shapes.py --json. What the page says stands in
real_shapes.md.j2. Edit it there.
"""

from __future__ import annotations

import json
import statistics as stats
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pages import filled
from real_shapes_timing import brief, spread

LIMIT = 24
"""GiB of the GPU on which everything shall work."""
_CLOSE = 1.05
"""A batch fills the device if a sample takes at most this much longer than in the best batch."""
Report = Mapping[str, Any]


def main(measured: Path, page: Path) -> None:
    report = json.loads(measured.read_text(encoding="utf-8"))
    page.write_text(text(report), encoding="utf-8")
    print(page)


def text(report: Report) -> str:
    """Fill the page's template with the measurements."""
    models = {
        name: {
            "weights": number(parts.get("weights GiB")),
            "batches": batches(parts),
            "filling": filling(parts),
            "steps": steps(parts.get("steps", {})),
            "details": details(parts.get("steps", {})),
            "over": over(parts),
            "switching": switching(parts.get("neurons off", {})),
            "compiled": switching(parts["compiled"]) if "compiled" in parts else "",
            "neighbours": neighbours(parts),
        }
        for name, parts in report["models"].items()
    }
    return filled(
        "real_shapes.md.j2",
        card=report["card"],
        torch=report["torch"],
        seconds=f"{report['seconds']:.0f}",
        limit=LIMIT,
        models=models,
    )


def batches(parts: Report) -> str:
    """Milliseconds per sample, one row for each type and layout."""
    by_kind = of_prefix(parts, "batches, ")
    sizes = sorted({int(size) for some in by_kind.values() for size in some if size.isdigit()})
    rows = [["ms per sample in passes of", *map(str, sizes), "GiB at most"]]
    for kind, some in by_kind.items():
        per_sample = [
            spread([one / size for one in some[str(size)]["seconds"]]) if str(size) in some else ""
            for size in sizes
        ]
        peaks = [one["peak GiB"] for one in some.values() if isinstance(one, dict)]
        rows.append([kind, *per_sample, number(max(filter(None, peaks), default=None))])
    return table(rows)


def filling(parts: Report) -> str:
    """The smallest batch in which a sample takes hardly longer than in the best, by kind."""
    found = []
    for kind, some in of_prefix(parts, "batches, ").items():
        per_sample = {
            int(size): stats.median(one["seconds"]) / int(size)
            for size, one in some.items()
            if size.isdigit()
        }
        if per_sample:
            best = min(per_sample.values())
            enough = min(size for size, one in per_sample.items() if one <= _CLOSE * best)
            found.append(f"{enough} ({kind})")
    return ", ".join(found)


def steps(taken: Report) -> str:
    rows = [["step, for one prompt", "time", "peak GiB"]]
    for name, one in taken.items():
        if isinstance(one, dict) and "seconds" in one:
            rows.append([name, spread(one["seconds"]), number(one["peak GiB"])])
    return table(rows)


def details(taken: Report) -> list[str]:
    """Everything else that is known of a step, a line for each."""
    found = []
    for name, one in taken.items():
        if not isinstance(one, dict):
            found.append(f"{name}: {one}")
            continue
        rest = {key: value for key, value in one.items() if key not in ("seconds", "peak GiB")}
        shown = "; ".join(f"{key} {plain(value)}" for key, value in rest.items())
        if shown:
            found.append(f"{name}: {shown}")
    return found


def over(parts: Report) -> list[str]:
    """Name what took more memory than `LIMIT`."""
    return [
        f"{name} ({peak if isinstance(peak, str) else f'{peak:.1f} GiB'})"
        for name, peak in peaks(parts)
        if not isinstance(peak, float) or peak > LIMIT
    ]


def peaks(parts: Report) -> Iterator[tuple[str, Any]]:
    for part, taken in parts.items():
        for name, one in taken.items() if isinstance(taken, dict) else ():
            if name == "memory of images":
                yield from one.items()
            elif isinstance(one, dict) and one.get("peak GiB") is not None:
                yield (f"{part}, {name} samples" if name.isdigit() else name), one["peak GiB"]


def switching(taken: Report) -> str:
    """One row for each way to run a pass, and each way to switch."""
    columns = ("nothing off", "off by hooks", "off by weights")
    rows = [["pass of", *columns, ""]]
    for name, one in taken.items():
        if not isinstance(one, dict):
            rows.append([name, "", "", "", str(one)])
            continue
        cells = [spread(one[column]["seconds"]) if column in one else "" for column in columns]
        rest = {key: value for key, value in one.items() if key not in columns}
        shown = "; ".join(f"{key}: {plain(value)}" for key, value in rest.items())
        rows.append([name, *cells, shown])
    return table(rows)


def neighbours(parts: Report) -> list[str]:
    return [
        f"{kind}: " + "; ".join(f"{key} {plain(value)}" for key, value in some.items())
        for kind, some in of_prefix(parts, "neighbours, ").items()
    ]


def of_prefix(parts: Report, prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): one for name, one in parts.items() if name.startswith(prefix)
    }


def plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {plain(one)}" for key, one in value.items()) + ")"
    return brief(value)


def number(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.1f}"


def table(rows: list[list[str]]) -> str:
    head, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *others])


if __name__ == "__main__":
    arguments = [Path(one) for one in sys.argv[1:]]
    defaults = [Path("benchmarks/records/real-shapes.json"), Path("docs/real-shapes.md")]
    main(*[*arguments, *defaults[len(arguments) :]])
