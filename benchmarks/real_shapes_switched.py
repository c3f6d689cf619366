"""What the page on full-size models says about neurons that are off, graphs and compiling."""

from __future__ import annotations

import statistics as stats
from collections.abc import Iterator
from typing import Any

from real_shapes_timing import brief, spread
from real_shapes_words import Report, of_prefix, table

_SWITCHES = ("nothing off", "off by hooks", "off by weights")


def switching(taken: Report) -> str:
    """One row for each way to run a pass, and each way to switch."""
    rows = [["pass of", *_SWITCHES, ""]]
    for name, one in taken.items():
        if not isinstance(one, dict):
            if "same bits" not in name:
                rows.append([name, "", "", "", str(one)])
            continue
        timed = {key: value for key, value in one.items() if timing(value)}
        if not timed and "same bits" in name:
            continue
        cells = [
            spread(timed[column]["seconds"]) if column in timed else "" for column in _SWITCHES
        ]
        rest = {key: value for key, value in one.items() if key not in timed}
        others = [f"{key}: {spread(timed[key]['seconds'])}" for key in timed.keys() - {*_SWITCHES}]
        shown = "; ".join([*others, *(f"{key}: {brief(value)}" for key, value in rest.items())])
        rows.append([name, *cells, shown])
    return table(rows) if len(rows) > 1 else ""


def timing(value: Any) -> bool:
    return isinstance(value, dict) and "seconds" in value


def same_bits(taken: Report) -> str:
    """Say whether all ways to switch compute the same."""
    answers = [
        answer
        for name, one in taken.items()
        if "same bits" in name
        for answer in (one.values() if isinstance(one, dict) else [one])
    ]
    if not answers:
        return ""
    other = [answer for answer in answers if answer != "yes"]
    return (
        "Hooks, weights and graphs compute the same bits, and so does the model afterwards."
        if not other
        else f"Not all compute the same bits: {'; '.join(other)}."
    )


def switching_in_words(taken: Report) -> Iterator[str]:
    """Say what hooks cost, and what a CUDA graph would gain."""
    eager = [one for name, one in taken.items() if name.startswith("eager, ")]
    graphs = [
        one
        for name, one in taken.items()
        if name.startswith("CUDA graph, ") and timing(one.get(_SWITCHES[0]))
    ]
    if not (len(eager) == len(graphs) == 2):
        return
    for (plain_pass, hooks), samples in zip(map(two_medians, eager), ("one", "10"), strict=True):
        yield (
            f"*Eager*, a pass of {samples} takes {plain_pass:.1f} ms, and {hooks:.1f} ms with "
            "hooks (medians)."
        )
    rates = [two_medians(row)[0] for row in (*eager, *graphs)]
    yield (
        f"*In a CUDA graph* a pass of one takes {rates[2]:.1f} ms in place of {rates[0]:.1f}, and "
        f"one of 10 takes {rates[3]:.1f} ms in place of {rates[1]:.1f}. Hooks cannot enter a "
        "graph; zeros in the weights keep its speed. [Design](design.md) says why the package does "
        "not switch in this way."
    )


def compiled_in_words(parts: Report) -> Iterator[str]:
    """Say what compiling gains, and what of it is lost with hooks."""
    for way, one in of_prefix(parts, "compiled, ").items():
        if "after it, same bits" in one:
            eager, fast, hooks, weights = (
                1000 * stats.median(one[name]["seconds"]) for name in ("eager", *_SWITCHES)
            )
            yield (
                f"*Compiled ({way})*, a pass of 10 takes {fast:.1f} ms in place of {eager:.1f}, "
                f"after {one['seconds to compile, one reading']:.0f} s of compiling. With neurons "
                f"off it takes {hooks:.1f} ms by hooks, for which the plain U-Net runs, and "
                f"{weights:.1f} ms by zeros in the weights."
            )


def two_medians(row: Report) -> tuple[float, float]:
    """Return milliseconds with nothing off, and with hooks where they were measured."""
    medians = [1000 * stats.median(row[name]["seconds"]) for name in _SWITCHES[:2] if name in row]
    return medians[0], medians[-1]
