"""How a run stands: what is done, what failed, how fast it is, and which items took longest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappush, heappushpop
from itertools import pairwise
from statistics import median
from typing import Any

from unmemorize.runs._records import kinds_in, read_lines
from unmemorize.runs._run import Run

_RECENT = 200
"""The rate is taken over this many finished items, the last ones."""
_SLOWEST = 5
"""How many of the slowest items are named."""
_PAUSE = 50
"""A gap longer than this many median gaps (median at least 1 s) counts as a pause."""
_WITHOUT_STATUS = frozenset({"quality"})
"""Kinds of records that do not belong to prompts."""
_FINISHED, _FAILED = 1, 2
"""Bits of an item's state; an item may have failed first and been finished later."""


@dataclass(frozen=True)
class Status:
    """How work of one kind stands.

    Args:
        name: the kind of records.
        done: how many items are finished, including those that failed at first.
        failed: how many items failed and were not finished later.
        pending: how many items were not tried yet.
        rate: items per second over the last ones, without pauses; None for fewer than two.
        left: seconds until pending and failed items are done at this rate.
        idle: seconds since the last item was finished.
        slowest: seconds and text of the slowest prompts.
    """

    name: str
    done: int
    failed: int
    pending: int
    rate: float | None
    left: float | None
    idle: float | None
    slowest: tuple[tuple[float, str], ...]


def status_of(run: Run, totals: Mapping[str, int] | None = None) -> list[Status]:
    """Return the status of each kind of work in a run, and of each set of images.

    Args:
        run: the run.
        totals: how many records there will be of a kind, where these are not the items of the run.
    """
    kinds = sorted(kinds_in(run.folder) - _WITHOUT_STATUS)
    items = run.manifest.items
    of_items = [_status(run, kind, kind, (totals or {}).get(kind, items)) for kind in kinds]
    of_images = [
        _status(images, "images", f"images/{name}", images.manifest.items)
        for name, images in run.nested("images").items()
    ]
    return of_items + of_images


def _status(run: Run, kind: str, name: str, total: int) -> Status:
    states = bytearray(total)
    times: list[float] = []
    durations: list[tuple[float, str]] = []
    for _, content in read_lines(run.files(kind)):
        index = content["index"]
        if index >= len(states):  # images may belong to a few prompts with high numbers
            states.extend(bytes(index + 1 - len(states)))
        if "error" in content:
            states[index] |= _FAILED
            continue
        states[index] |= _FINISHED
        keep_largest(times, _RECENT, content.get("at"))
        seconds, prompt = content.get("seconds"), content.get("prompt")
        if prompt and isinstance(seconds, (int, float)):
            keep_largest(durations, _SLOWEST, (float(seconds), str(prompt)))
    times.sort()
    rate = _rate(times)
    failed = states.count(_FAILED)
    done = len(states) - states.count(0) - failed
    return Status(
        name=name,
        done=done,
        failed=failed,
        pending=max(0, total - done - failed),
        rate=rate,
        left=max(0, total - done) / rate if rate else None,
        idle=time.time() - times[-1] if times else None,
        slowest=tuple(sorted(durations, reverse=True)),
    )


def keep_largest(heap: list[Any], count: int, value: Any) -> None:
    """Add a value to a heap that keeps so many of the largest ones."""
    if value is None:
        return
    if len(heap) < count:
        heappush(heap, value)
    else:
        heappushpop(heap, value)


def _rate(times: list[float]) -> float | None:
    """Return items per second in the time that was worked, from rising times of finished items."""
    gaps = [later - earlier for earlier, later in pairwise(times)]
    working_gaps = [gap for gap in gaps if gap <= _PAUSE * max(median(gaps), 1.0)]
    return len(working_gaps) / sum(working_gaps) if sum(working_gaps) else None
