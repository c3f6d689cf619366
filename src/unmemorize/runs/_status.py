"""Where a run stands: what is done, what failed, how fast it goes, and which items took longest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from heapq import heappush, heappushpop
from itertools import pairwise
from statistics import median
from typing import Any

from unmemorize.runs._prompts import prompt_count
from unmemorize.runs._records import read_lines
from unmemorize.runs._run import Run

_RECENT = 200
"""Finished items from which the rate is taken, the last ones."""
_SLOWEST = 5
_FINISHED, _FAILED = 1, 2
_PAUSE = 50
"""Times the median gap between two items, which counts as a second at least."""


@dataclass(frozen=True)
class Status:
    """Of one kind of records.

    Args:
        name: of the work.
        done, failed, pending: items; those that failed and were finished later are done.
        rate: items per second, over the last ones; None for fewer than two.
        left: seconds until the pending and failed ones are done at this rate.
        idle: seconds since the last one was finished.
        slowest: seconds and text of some prompts.
    """

    name: str
    done: int
    failed: int
    pending: int
    rate: float | None
    left: float | None
    idle: float | None
    slowest: tuple[tuple[float, str], ...]


def status_of(run: Run) -> list[Status]:
    """The status of detection or localization, and of each set of images."""
    found = [_status(run, name, name, prompt_count(run)) for name in _kinds(run)]
    return found + [
        _status(images, "images", f"images/{name}", images.manifest.items)
        for name, images in run.nested("images").items()
    ]


def _kinds(run: Run) -> list[str]:
    names = {path.name.split(".")[0] for path in run.folder.glob("*.jsonl")} - {
        "prompts",
        "quality",
    }
    return sorted(names)


def _status(run: Run, kind: str, name: str, total: int) -> Status:
    flags = bytearray(total)
    times: list[float] = []
    took: list[tuple[float, str]] = []
    for _, _, content in read_lines(run.files(kind)):
        index = content["index"]
        if index >= len(
            flags
        ):  # images are numbered as the prompts are, of which they may show a part
            flags.extend(bytes(index + 1 - len(flags)))
        if "error" in content:
            flags[index] |= _FAILED
            continue
        flags[index] |= _FINISHED
        _keep_largest(times, _RECENT, content.get("at"))
        seconds = content.get("seconds")
        if isinstance(seconds, (int, float)):
            _keep_largest(took, _SLOWEST, (float(seconds), str(content.get("prompt", ""))))
    times.sort()
    rate = _rate(times)
    lost = flags.count(_FAILED)
    done = len(flags) - flags.count(0) - lost
    return Status(
        name,
        done,
        lost,
        max(0, total - done - lost),
        rate,
        (total - done) / rate if rate else None,
        time.time() - times[-1] if times else None,
        tuple(sorted(took, reverse=True)),
    )


def _keep_largest(kept: list[Any], count: int, value: Any) -> None:
    """Add a value to a heap of the largest ones."""
    if value is not None:
        heappush(kept, value) if len(kept) < count else heappushpop(kept, value)


def _rate(times: list[float]) -> float | None:
    """Items per second while somebody worked: gaps far above the usual one were pauses."""
    gaps = [later - earlier for earlier, later in pairwise(times)]
    worked = [gap for gap in gaps if gap <= _PAUSE * max(median(gaps), 1.0)]
    return len(worked) / sum(worked) if sum(worked) else None
