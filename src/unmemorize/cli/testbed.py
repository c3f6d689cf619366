"""The commands ``testbed ...``."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from unmemorize import testbed as assets
from unmemorize._errors import TestbedError
from unmemorize._files import atomic_write
from unmemorize.cli._console import console, progress_bar
from unmemorize.pipelines import Model
from unmemorize.testbed._calibrate import calibrate as run_calibration
from unmemorize.testbed._check import check as run_check

app = typer.Typer(
    help="The bundled model, which really memorizes known images: check it, or calibrate it.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def check() -> None:
    """Measure what the bundled model must show, beside what is required; exit code 1 when something fails. Some minutes."""
    with progress_bar("check") as progress:
        findings = run_check(Model.load("testbed", device="cpu"), progress=progress)
    table = Table("", "measured", "required", "", "on", pad_edge=False)
    for finding in findings:
        verdict = "" if finding.required is None else "ok" if finding.passed else "FAILS"
        table.add_row(
            finding.name, f"{finding.measured:.3f}", finding.required or "", verdict, finding.detail
        )
    console.print(table)
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)


@app.command()
def calibrate() -> None:
    """Make the statistics, the threshold and the defaults of the bundled model again, in the package."""
    with progress_bar("calibrate") as progress:
        run_calibration(Model.load("testbed", device="cpu"), progress=progress)


@app.command()
def captions(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write them (.txt).")],
    split: Annotated[
        Literal["train", "calibration", "test"], typer.Option(help="Seen in training, or held out.")
    ] = "test",
) -> None:
    """Write captions that the bundled model has not memorized, for unmemorize generate --prompts and the like."""
    given = assets.captions(split)
    atomic_write(output, "\n".join(given) + "\n", TestbedError)
    console.print(f"{len(given)} captions: {output}")
