"""Write the page on full-size models on a GPU.

python benchmarks/real_shapes_page.py [MEASURED.json] [docs/real-shapes.md]

MEASURED.json comes from benchmarks/real_shapes.py --json. What the page says stands in
real_shapes.md.j2, and sentences with numbers stand here. Parts that the readings lack are named.
"""

from __future__ import annotations

import json
import statistics as stats
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pages import filled
from real_shapes_switched import compiled_in_words, same_bits, switching, switching_in_words
from real_shapes_timing import brief, spread
from real_shapes_words import Report, in_seconds, number, of_prefix, plain, table
from unmemorize.pipelines._autoencoder import DECODED_TOGETHER
from unmemorize.pipelines._replay import LARGEST as REPLAYED

LIMIT = 24
"""GiB of the GPU on which everything shall work."""
CERTIFICATE = "72 images of a certificate"
_CLOSE = 1.05
"""A batch fills the device if a sample takes at most this much longer than in the best batch."""
_STEPS = {
    "detect, one prompt": "detect",
    "detect, of 8 prompts": "detect, 8 prompts together",
    "localize, shortest way": "localize, first set passes",
    "localize, longest way": "localize, no set passes",
    "generate, an image of 10": "generate, 50 steps, 10 images, each",
    "generate, an image of 2": "generate, 50 steps, 2 images, each",
    CERTIFICATE: CERTIFICATE,
    "statistics, per caption": "statistics, per caption",
}
"""Rows of the first table, and what `real_shapes.py` calls them."""
_NEEDED = {
    "images": "memory of images",
    "generate and certificate": CERTIFICATE,
    "localize": "localize, no set passes",
}
_TYPES = ("float16", "bfloat16")


def main(measured: Path, page: Path) -> None:
    report = json.loads(measured.read_text(encoding="utf-8"))
    page.write_text(text(report), encoding="utf-8")
    print(page)


def text(report: Report) -> str:
    """Fill the page's template with the measurements."""
    models: dict[str, Report] = report["models"]
    first = next(iter(models.values()))
    kinds = list(of_prefix(first, "batches, "))
    return filled(
        "real_shapes.md.j2",
        card=report["card"],
        torch=report["torch"],
        seconds=f"{report['seconds']:.0f}",
        limit=LIMIT,
        decoder=DECODED_TOGETHER // 1024**3,
        dtype=kinds[0].split(", ")[0] if kinds else "the first type",
        missing=list(missing(models)),
        overview=overview(models),
        certificate=CERTIFICATE.split()[0],
        mitigated=mitigated(models),
        filling=list(filling_in_words(first)),
        over=[f"{name}, {one}" for name, parts in models.items() for one in over(parts)],
        memory=list(memory_in_words(models)),
        images=images(models),
        neighbours=neighbours(models),
        bits=bits(models),
        models={
            name: {
                "batches": batches(parts),
                "filling": filling(parts),
                "steps": steps(parts.get("steps", {})),
                "switching": switching(parts.get("neurons off", {})),
                "same": same_bits(parts.get("neurons off", {})),
                "switched": list(switching_in_words(parts.get("neurons off", {}))),
                "compiled": switching(of_prefix(parts, "compiled, ")),
                "compiling": list(compiled_in_words(parts)),
            }
            for name, parts in models.items()
        },
    )


def missing(models: Report) -> Iterator[str]:
    """Name the parts that a run makes and the readings lack."""
    for name, parts in models.items():
        lacking = [word for word, step in _NEEDED.items() if step not in parts.get("steps", {})]
        kinds = ("batches, ", "neurons off", "neighbours, ")
        lacking += [kind.removesuffix(", ") for kind in kinds if not of_prefix(parts, kind)]
        if name.startswith("SD ") and not of_prefix(parts, "compiled, "):
            lacking.append("torch.compile")
        if lacking:
            yield f"{name}: {', '.join(lacking)}"


def overview(models: Report) -> str:
    """One column for each model: median seconds of a step, and the most memory."""
    rows = [["one prompt", *(f"{name}: time | peak GiB" for name in models)]]
    for label, step in _STEPS.items():
        taken = [parts.get("steps", {}).get(step) for parts in models.values()]
        if any(taken):
            cells = [
                f"{in_seconds(stats.median(one['seconds']))} | {number(one['peak GiB'])}"
                if one
                else "| "
                for one in taken
            ]
            rows.append([label, *cells])
    head, *others = table(rows).split("\n")
    return "\n".join([head, "|---" * (1 + 2 * len(models)) + "|", *others[1:]])


def mitigated(models: Report) -> str:
    """Say what one prompt takes from its localization to its certificate."""
    found = []
    for name, parts in models.items():
        taken = parts.get("steps", {})
        if CERTIFICATE in taken and _STEPS["localize, longest way"] in taken:
            images = stats.median(taken[CERTIFICATE]["seconds"])
            localized = stats.median(taken[_STEPS["localize, longest way"]]["seconds"])
            found.append(f"{images + localized:.0f} to {2 * images + localized:.0f} s ({name})")
    return ", ".join(found) or "a time that was not measured"


def batches(parts: Report) -> str:
    """Milliseconds per sample, one row for each type and layout."""
    by_kind = of_prefix(parts, "batches, ")
    if not by_kind:
        return ""
    sizes = sorted({int(size) for some in by_kind.values() for size in some if size.isdigit()})
    rows = [["ms per sample in passes of", *map(str, sizes), "GiB at most"]]
    for kind, some in by_kind.items():
        per_sample = [
            spread([one / size for one in some[str(size)]["seconds"]]) if str(size) in some else ""
            for size in sizes
        ]
        tops = [one["peak GiB"] for one in some.values() if isinstance(one, dict)]
        rows.append([plain(kind), *per_sample, number(max(filter(None, tops), default=None))])
    return table(rows)


def per_sample(parts: Report, kind: str) -> dict[int, float]:
    """Return the median milliseconds of a sample by the size of its pass."""
    return {
        int(size): 1000 * stats.median(one["seconds"]) / int(size)
        for size, one in parts.get(f"batches, {kind}", {}).items()
        if size.isdigit()
    }


def filling(parts: Report) -> str:
    """The smallest batch in which a sample takes hardly longer than in the best, by kind."""
    found = []
    for kind in of_prefix(parts, "batches, "):
        if taken := per_sample(parts, kind):
            enough = min(size for size, one in taken.items() if one <= _CLOSE * min(taken.values()))
            found.append(f"{enough} ({plain(kind)})")
    return ", ".join(found)


def filling_in_words(parts: Report) -> Iterator[str]:
    """Say what a larger pass, the other type and the other layout gain."""
    half, brain = (per_sample(parts, f"{kind}, contiguous_format") for kind in _TYPES)
    last = per_sample(parts, f"{_TYPES[0]}, channels_last")
    if not (half and brain and last):
        return
    least, most = min(half), max(half)
    same = max(size for size in half if size * half[size] < 1.5 * least * half[least])
    yield (
        f"*Batches.* A pass of {least} takes {least * half[least]:.0f} ms, and one of {same} "
        f"takes {same * half[same]:.0f} ms: the card waits for the processor, which starts one "
        f"kernel after the other. In passes of {most}, a sample takes "
        f"{half[least] / half[most]:.1f} times less than alone."
    )
    yield (
        f"*float16 or bfloat16.* In passes of {most}, a sample takes {half[most]:.2f} ms in "
        f"float16 and {brain[most]:.2f} ms in bfloat16. In passes of {least} it took "
        f"{half[least]:.0f} and {brain[least]:.0f} ms. There the processor is what is "
        "measured, and bfloat16 came later; we do not know whether other work slowed "
        "it. float16 stays the default on a card."
    )
    yield (
        f"*Channels last* is {'slower' if last[most] > half[most] else 'faster'}: {last[most]:.2f} "
        f"ms per sample in passes of {most}, and {half[most]:.2f} ms in the usual layout."
    )


def steps(taken: Report) -> str:
    rows = [["step, for one prompt", "time", "peak GiB", ""]]
    for name, one in taken.items():
        if isinstance(one, dict) and "seconds" in one:
            rows.append([name, spread(one["seconds"]), number(one["peak GiB"]), counted(one)])
    return table(rows) if len(rows) > 1 else ""


def counted(step: Report) -> str:
    """Say what else is known of a step."""
    if "samples" in step:
        return (
            f"{step['samples']} samples, {step['work']:.1f} weighted; "
            f"{step['candidates']} candidates, {step['neurons']} neurons"
        )
    if "recordings" in step:
        return (
            f"{step['recordings']} recordings of {step['GiB per recording']:.1f} GiB "
            f"are held, {'exact' if step['exact'] else 'not exact'}"
        )
    return ""


def memory_in_words(models: Report) -> Iterator[str]:
    """Say how localization goes where memory is small, and what replay costs or saves."""
    for name, parts in models.items():
        taken = parts.get("steps", {})
        caps = taken.get("localize, by memory", {})
        for cap, way in caps.items() if isinstance(caps, dict) else ():
            yield f"{name}: with {cap} of memory, a localization measures {way}."
        plan = taken.get("plan of replay, once per model")
        longest = taken.get(_STEPS["localize, longest way"])
        if plan and longest:
            yield f"{name}: {replay_in_words(plan, longest)}{saved_in_words(models, taken)}"


def replay_in_words(plan: Report, longest: Report) -> str:
    """Say whether outputs of layers are recorded, and what would change if they were or not."""
    each, peak = plan["GiB per recording"], longest["peak GiB"]
    if plan["recordings"]:
        return (
            f"a localization holds {longest['recorded GiB']:.1f} GiB of recorded outputs and "
            "replays them instead of running the denoiser from its start."
        )
    return (
        f"outputs of 10 seeds would take {each:.1f} GiB, and all recordings of a prompt may take "
        f"{REPLAYED // 1024**3}. Therefore the denoiser always runs whole, which the command says. "
        f"Two recordings would bring a localization from {peak:.1f} to {peak + 2 * each:.1f} GiB."
    )


def saved_in_words(models: Report, taken: Report) -> str:
    """Say what replay saves, where another model, which does not replay, tells backward passes."""
    ways = [_STEPS["localize, shortest way"], _STEPS["localize, longest way"]]
    backward = [
        other[way]["work"] - other[way]["samples"]
        for other in (parts.get("steps", {}) for parts in models.values())
        for way in ways
        if way in other and other[way]["recorded GiB"] == 0
    ]
    if not backward or not taken[ways[0]]["recorded GiB"]:
        return ""
    whole = [taken[way]["samples"] + stats.median(backward) for way in ways]
    shares = [1 - taken[way]["work"] / all_ for way, all_ in zip(ways, whole, strict=True)]
    return f" This saves {min(shares):.0%} to {max(shares):.0%} of the weighted samples."


def images(models: Report) -> str:
    """Peak memory of decoding, at once and one by one."""
    by_model = {
        name: parts["steps"]["memory of images"]
        for name, parts in models.items()
        if "memory of images" in parts.get("steps", {})
    }
    if not by_model:
        return ""
    counts = ["1", "4", "10"]
    rows = [["images", *counts]]
    for name, taken in by_model.items():
        for way in ("at once", "one by one"):
            cells = [number(taken.get(f"{count} decoded {way}")) for count in counts]
            rows.append([f"{name}, {way}", *cells])
    return table(rows)


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


def neighbours(models: Report) -> str:
    """The largest differences that a batch makes, one column for each model and type."""
    columns = {
        f"{name}, {kind}": some
        for name, parts in models.items()
        for kind, some in of_prefix(parts, "neighbours, ").items()
    }
    rows = [["", *columns]]
    names = dict.fromkeys(name for some in columns.values() for name in some["prediction"])
    rows += [
        [name, *(brief(some["prediction"][name]) for some in columns.values())] for name in names
    ]
    rows.append(
        [
            "largest value of a prediction",
            *(brief(s["largest prediction"]) for s in columns.values()),
        ]
    )
    rows.append(
        [
            "score, alone or together",
            *(f"{brief(s['score'])} of {max(s['scores']):.1f}" for s in columns.values()),
        ]
    )
    return table(rows)


def bits(models: Report) -> str:
    """Say in which cases the bits are the same."""
    found = [
        some["prediction"]
        for parts in models.values()
        for some in of_prefix(parts, "neighbours, ").values()
    ]
    same = [name for name in (found[0] if found else ()) if not any(one[name] for one in found)]
    if not same:
        return "No case gives the same bits."
    return f"The bits are the same for: {', '.join(same)}."


if __name__ == "__main__":
    arguments = [Path(one) for one in sys.argv[1:]]
    defaults = [Path("benchmarks/records/real-shapes.json"), Path("docs/real-shapes.md")]
    main(*[*arguments, *defaults[len(arguments) :]])
