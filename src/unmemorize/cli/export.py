"""The commands ``export ...``."""

from pathlib import Path
from typing import Annotated

import typer

from unmemorize._upstream import export_results
from unmemorize.cli._common import RunArgument, console
from unmemorize.runs import Run

app = typer.Typer(help="Write what was found in the formats of other programs.", no_args_is_help=True)


@app.command("upstream-csv")
def upstream_csv(
    run: RunArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it (.csv).")],
) -> None:
    """The neurons of a run as a result file of the published code: `;` separated, one list per searched layer."""
    console.print(f"{export_results(Run.load(run), output)} prompts: {output}")
