"""The report of an audit: its verdicts, and what was not tried."""

from __future__ import annotations

from pathlib import Path

from unmemorize.audit import ARMS, AuditResult
from unmemorize.report._page import render
from unmemorize.runs import Run


def write_audit_report(run: Run) -> Path:
    """Write ``report.html`` into the folder of a finished audit.

    Raises:
        RunError: the audit is not finished, or its result is damaged.
    """
    result = AuditResult.load(run)
    verdicts = [verdict for outcome in result.attacks for verdict in outcome.verdicts]
    page = render(
        "audit.html.j2",
        manifest=run.manifest,
        result=result,
        arms=[arm for arm in ARMS if any(arm in verdict.medians for verdict in verdicts)],
        rates=sorted({verdict.false_triggers for verdict in verdicts if verdict.false_triggers}),
    )
    return run.write("report.html", page)
