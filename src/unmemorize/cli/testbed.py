"""The commands ``testbed ...``."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.table import Table

from unmemorize import testbed as assets
from unmemorize._errors import TestbedError
from unmemorize._files import atomic_write
from unmemorize.cli._console import console, print_hint, print_line, show_progress
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

    This takes some minutes. The exit code is 1 if a requirement fails.
    """
    with show_progress("check") as progress:
        findings = run_check(Model.load("testbed", device="cpu"), progress=progress)
    table = Table("", "measured", "required", "", "on", pad_edge=False)
    for finding in findings:
        verdict = "" if finding.required is None else "ok" if finding.passed else "FAILS"
        table.add_row(
            finding.name, f"{finding.measured:.3f}", finding.required or "", verdict, finding.detail
        )
    console.print(table)
    return int(not all(finding.passed for finding in findings))


@app.command
def calibrate() -> None:
    """Compute the statistics, thresholds and defaults of the bundled model again.

    They replace those in the installed package.
    """
    with show_progress("calibrate") as progress:
        run_calibration(Model.load("testbed", device="cpu"), progress=progress)
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
    print_hint(f"unmemorize generate RUN --prompts {output}")
