"""Where a run stands: what is done, what failed, how fast it goes, and which items took longest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from heapq import nlargest

from unmemorize.runs._images import IMAGES, image_sets
from unmemorize.runs._prompts import prompt_count
from unmemorize.runs._records import read_lines
from unmemorize.runs._run import Run

_RECENT = 200
"""Finished items from which the rate is taken, the last ones."""
_SLOWEST = 5


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
    return found + [_status(made, IMAGES, f"images/{name}", made.about["items"]) for name, made in image_sets(run).items()]


def _kinds(run: Run) -> list[str]:
    names = {path.name.split(".")[0] for path in run.folder.glob("*.jsonl")} - {"prompts", "quality"}
    return sorted(names)


def _status(run: Run, kind: str, name: str, total: int) -> Status:
    finished: set[int] = set()
    failed: set[int] = set()
    times: list[float] = []
    took: list[tuple[float, str]] = []
    for _, _, content in read_lines(run.files(kind)):
        if "error" in content:
            failed.add(content["index"])
            continue
        finished.add(content["index"])
        if "at" in content:
            times.append(content["at"])
        seconds = content.get("seconds")
        if isinstance(seconds, (int, float)):
            took = nlargest(_SLOWEST, [*took, (float(seconds), str(content.get("prompt", "")))])
    times = sorted(times)[-_RECENT:]
    rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else None
    open_ = total - len(finished)
    return Status(
        name,
        len(finished),
        len(failed - finished),
        max(0, open_ - len(failed - finished)),
        rate,
        open_ / rate if rate else None,
        time.time() - times[-1] if times else None,
        tuple(took),
    )
