"""The command ``status``."""

from collections.abc import Sequence
from datetime import timedelta

from unmemorize.audit import AuditRun, ImageAuditRun
from unmemorize.cli._console import console, make_table, print_answer, print_hint, print_line
from unmemorize.cli._execution_options import RunArgument
from unmemorize.comparison import ComparisonRun
from unmemorize.mitigation import MitigationRun
from unmemorize.runs import Run, Status, status_of

_RESULTS = {
    MitigationRun.kind: "mitigation.json",
    AuditRun.kind: "audit.json",
    ImageAuditRun.kind: "images.json",
    ComparisonRun.kind: "comparison.json",
}
"""The last file of a run whose stages do not take all prompts, by kind."""


def command(run: RunArgument, /) -> None:
    """Show how far a run is, while it works or afterwards.

    The table counts what is done, failed and pending, and shows the rate and the time left. The
    slowest prompts follow. Stages of mitigate, audit and compare take only the prompts that they
    need, so the pending ones of such a stage may be none of its own.
    """
    loaded = Run.load(run)
    states = status_of(loaded)
    finished = _is_finished(loaded, states)
    failed = sum(status.failed for status in states)
    print_line(_headline(loaded, states, finished=finished), style="bold")
    table = make_table("stage", "done", "failed", "pending", "a minute", "left", text="last")
    for status in states:
        pending = 0 if finished else status.pending
        table.add_row(
            status.name,
            str(status.done),
            str(status.failed),
            str(pending),
            f"{60 * status.rate:.3g}" if status.rate else "",
            _duration(status.left if pending or status.failed else None),
            _duration(status.idle),
        )
    console.print(table)
    for status in states:
        if status.slowest:
            print_line(f"slowest {status.name}:")
            for seconds, prompt in status.slowest:
                print_line(f"  {seconds:8.2f} s  {prompt[:64]}")
    print_answer(run=run, kind=loaded.manifest.kind, finished=finished, stages=states)
    if finished and not failed:
        print_hint(f"unmemorize report {run}")
    else:
        print_hint("the command that made the run; it does only what is missing")


def _is_finished(run: Run, states: Sequence[Status]) -> bool:
    """Tell whether nothing of a run is missing."""
    result = _RESULTS.get(run.manifest.kind)
    if result is not None:
        return (run.folder / result).exists()
    return bool(states) and not any(status.pending or status.failed for status in states)


def _headline(run: Run, states: Sequence[Status], *, finished: bool) -> str:
    what = f"{run.manifest.kind} of {run.manifest.items} prompts"
    if finished:
        return f"Finished: {what}."
    failed = sum(status.failed for status in states)
    return f"Not finished: {what}." + (f" {failed} items failed." if failed else "")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    duration = timedelta(seconds=round(seconds))
    return f"{duration.days} days" if duration.days > 1 else str(duration)
