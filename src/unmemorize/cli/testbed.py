"""The commands ``testbed ...``."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from unmemorize import testbed as assets
from unmemorize._errors import TestbedError
from unmemorize._files import atomic_write
from unmemorize.cli._console import (
    console,
    make_table,
    print_answer,
    print_hint,
    print_line,
    show_progress,
)
from unmemorize.cli._groups import OPTIONS
from unmemorize.pipelines import Model
from unmemorize.testbed._calibrate import calibrate as run_calibration
from unmemorize.testbed._check import check as run_check

app = App(
    name="testbed",
    help="Check or calibrate the bundled model, or write its captions.",
    group_parameters=OPTIONS,
)


@app.command
def check() -> int:
    """Measure what the bundled model must show, and compare it with what is required.

    This takes up to 40 minutes on two cores. The exit code is 1 if a requirement fails.
    """
    with show_progress("check") as progress:
        findings = run_check(Model.load("testbed", device="cpu"), progress=progress)
    failing = [finding.name for finding in findings if not finding.passed]
    print_line(f"Requirements that fail: {', '.join(failing) or 'none'}.")
    table = make_table("", "measured", "required", text="what was measured")
    for finding in findings:
        verdict = "" if finding.required is None else "ok" if finding.passed else "FAILS"
        table.add_row(
            verdict,
            f"{finding.measured:.3f}",
            finding.required or "",
            f"{finding.name} ({finding.detail})",
        )
    console.print(table)
    print_answer(passed=not failing, findings=findings)
    print_hint("unmemorize testbed calibrate" if failing else "unmemorize demo")
    return int(bool(failing))


@app.command
def calibrate() -> None:
    """Compute the statistics, thresholds and defaults of the bundled model again.

    They replace those in the installed package.
    """
    with show_progress("calibrate") as progress:
        run_calibration(Model.load("testbed", device="cpu"), progress=progress)
    for path in (assets.statistics_path(), assets.threshold_path()):
        print_line(str(path))
    print_answer(
        statistics=assets.statistics_path(),
        threshold=assets.threshold_path(),
        defaults=assets.defaults(),
    )
    print_hint("unmemorize testbed check")


@app.command
def captions(
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    split: Literal["train", "calibration", "test"] = "test",
) -> None:
    """Write captions that the bundled model has not memorized.

    Args:
        output: Prompt file to write (.txt), for options such as --prompts of generate.
        split: Captions seen in training, or held out for calibration or for tests.
    """
    texts = assets.captions(split)
    atomic_write(output, "\n".join(texts) + "\n", TestbedError)
    print_line(f"{len(texts)} captions: {output}")
    print_answer(captions=len(texts), file=output)
    print_hint("unmemorize generate RUN --prompts", output)
