"""The command ``status``."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from unmemorize._files import to_json
from unmemorize._words import counted
from unmemorize.audit import RESULT as AUDIT_RESULT
from unmemorize.audit import AuditRun, ImageAuditRun, audit_totals, image_audit_totals
from unmemorize.cli._console import console, make_table, print_answer, print_hint, print_line
from unmemorize.cli._execution_options import RunArgument
from unmemorize.comparison import ComparisonRun
from unmemorize.hardening import HardeningRun, hardening_totals
from unmemorize.mitigation import RESULT as MITIGATION_RESULT
from unmemorize.mitigation import MitigationResult, MitigationRun, Standing, standings
from unmemorize.report import page_of
from unmemorize.runs import Run, Status, status_of

_RESULTS = {
    MitigationRun.kind: MITIGATION_RESULT,
    AuditRun.kind: AUDIT_RESULT,
    ImageAuditRun.kind: "images.json",
    ComparisonRun.kind: "comparison.json",
    HardeningRun.kind: "hardening.json",
}
"""The last file of a run whose stages do not take all prompts, by kind."""
_TOTALS = {
    AuditRun.kind: audit_totals,
    ImageAuditRun.kind: image_audit_totals,
    HardeningRun.kind: hardening_totals,
}
"""What tells how many records there will be of each kind, where these are not the prompts."""


def command(run: RunArgument, /) -> None:
    """Show how far a run is, while it works or afterwards.

    For a finished mitigation, the second line says what it reached. Of a mitigation, the table has
    one row for each of its stages. Of other runs, it has one for each kind of records, and the
    slowest prompts follow. Stages of compare take only the prompts that they need, so until the run
    is finished, the pending ones of such a stage may be none of its own.
    """
    loaded = Run.load(run)
    totals = _TOTALS.get(loaded.manifest.kind)
    states = status_of(loaded, totals(loaded) if totals else None)
    finished = _is_finished(loaded, states)
    failed = sum(status.failed for status in states)
    count = loaded.manifest.items
    item = "image" if loaded.manifest.kind == ImageAuditRun.kind else "prompt"
    what = f"{loaded.manifest.kind} of {counted(count, item)}"
    headline = f"{'Finished' if finished else 'Not finished'}: {what}."
    print_line(headline + (f" {counted(failed, 'item')} failed." if failed else ""), style="bold")
    more: dict[str, str] = {}
    if loaded.manifest.kind == MitigationRun.kind:
        if finished:
            more["headline"] = MitigationResult.load(loaded).headline
            print_line(more["headline"])
        rows = standings(loaded, states)
        _print_standings(rows, finished=finished)
        stages = [_as_answer(row, finished=finished) for row in rows]
    else:
        states = [_ended(status) for status in states] if finished else states
        _print_states(states, finished=finished)
        stages = [to_json(status) for status in states]
    print_answer(run=run, kind=loaded.manifest.kind, finished=finished, **more, stages=stages)
    if finished and not failed:
        page = page_of(loaded)
        if page and (run / page).exists():  # it may be redacted, and would not be if written again
            print_line(f"report: {run / page}")
        elif page:
            print_hint("unmemorize report", run)
    else:
        print_hint("the command that made the run; it does only what is missing")


def _is_finished(run: Run, states: Sequence[Status]) -> bool:
    """Tell whether nothing of a run is missing."""
    result = _RESULTS.get(run.manifest.kind)
    if result is not None:
        return (run.folder / result).exists()
    return bool(states) and not any(status.pending or status.failed for status in states)


def _as_answer(row: Standing, *, finished: bool) -> dict[str, Any]:
    """Return a row of the table for programs. Nothing is left of a finished run."""
    pending = 0 if finished else None if row.total is None else max(0, row.total - row.done)
    return {
        "name": row.stage,
        "what": row.what,
        "done": row.done,
        "total": row.total,
        "pending": pending,
        "rate": row.rate,
        "left": None if finished else row.left,
        "idle": row.idle,
    }


def _ended(status: Status) -> Status:
    """Return the status of a finished run: stages that do not take all prompts wait for none."""
    return replace(status, pending=0, left=None)


def _print_standings(rows: Sequence[Standing], *, finished: bool) -> None:
    """Print one row for each stage of a mitigation, and how long the current one takes.

    Of a finished one, stages that had nothing to do are left out.
    """
    begun = [row for row in rows if row.idle is not None]
    if begun and not finished:
        current = min(begun, key=lambda row: row.idle or 0)
        left = f", about {_duration(current.left)} left" if current.left else ""
        number = rows.index(current) + 1
        print_line(f"Last work: {current.stage}, stage {number} of {len(rows)}{left}.")
    table = make_table("stage", "done", "a minute", "last, ago", text="what is counted")
    for row in rows:
        if finished and not row.done:
            continue
        of = f" of {row.total}" if row.total is not None else ""
        done = f"{row.done}{of}" if row.idle is not None or row.total is not None else ""
        table.add_row(row.stage, done, _rate(row.rate), _duration(row.idle), row.what)
    console.print(table)


def _print_states(states: Sequence[Status], *, finished: bool) -> None:
    """Print one row for each kind of records, then the slowest prompts."""
    if finished:
        table = make_table("stage", "done", "a minute", text="last, ago")
        for status in states:
            rate = _rate(status.rate)
            table.add_row(status.name, str(status.done), rate, _duration(status.idle))
    else:
        table = make_table("stage", "done", "failed", "pending", "left", text="last, ago")
        for status in states:
            counts = map(str, (status.done, status.failed, status.pending))
            left = status.left if status.pending or status.failed else None
            table.add_row(status.name, *counts, _duration(left), _duration(status.idle))
    console.print(table)
    for status in states:
        if status.slowest:
            print_line(f"slowest {status.name}:")
            for seconds, prompt in status.slowest:
                print_line(f"  {seconds:8.2f} s  {prompt[:64]}")


def _rate(rate: float | None) -> str:
    """Print how many a minute: three digits, and whole numbers in full."""
    minute = 60 * (rate or 0)
    return f"{minute:.0f}" if minute >= 100 else f"{minute:.3g}" if minute else ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    duration = timedelta(seconds=round(seconds))
    return f"{duration.days} days" if duration.days > 1 else str(duration)
