"""The command ``status``."""

from datetime import timedelta

from rich.table import Column, Table

from unmemorize.cli._console import console
from unmemorize.cli._options import RunArgument
from unmemorize.runs import Run, status_of


def command(run: RunArgument) -> None:
    """Where a run stands, while it works or afterwards: done, failed, pending, rate, time left, and the slowest prompts."""
    table = Table(
        Column("", no_wrap=True),
        "done",
        "failed",
        "pending",
        "per minute",
        "time left",
        "last one",
        pad_edge=False,
    )
    found = status_of(Run.load(run))
    for status in found:
        table.add_row(
            status.name,
            str(status.done),
            str(status.failed),
            str(status.pending),
            f"{60 * status.rate:.3g}" if status.rate else "",
            _duration(status.left if status.pending or status.failed else None),
            f"{_duration(status.idle)} ago" if status.idle is not None else "",
        )
    console.print(table)
    for status in found:
        if status.slowest:
            console.print(f"slowest {status.name}:")
            for seconds, prompt in status.slowest:
                console.print(f"  {seconds:8.2f} s  {prompt[:100]}")


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))
