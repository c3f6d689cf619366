"""The command ``status``."""

from datetime import timedelta

from rich.table import Column, Table

from unmemorize.cli._console import console, print_hint, print_line
from unmemorize.cli._execution_options import RunArgument
from unmemorize.runs import Run, status_of


def command(run: RunArgument, /) -> None:
    """Show how far a run is, while it works or afterwards.

    The table counts what is done, failed and pending, and shows the rate and the time left. The
    slowest prompts follow.
    """
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
    states = status_of(Run.load(run))
    for status in states:
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
    for status in states:
        if status.slowest:
            print_line(f"slowest {status.name}:")
            for seconds, prompt in status.slowest:
                print_line(f"  {seconds:8.2f} s  {prompt[:100]}")
    if any(status.pending or status.failed for status in states):
        print_hint("the command that made the run; it does only what is missing")


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))
