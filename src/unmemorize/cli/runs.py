"""The commands ``runs ...``."""

from pathlib import Path
from typing import Annotated

import typer

from unmemorize.cli._console import console
from unmemorize.cli._options import RunArgument
from unmemorize.export import export_parquet
from unmemorize.runs import Run, merge_runs

app = typer.Typer(
    help="Join the shards of a run, and write its records as a table.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def merge(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of one run, with its shards.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A new folder.", show_default=False)
    ],
) -> None:
    """Join the shards of a run, in one folder or in several from different machines. The run's own command then sums it up."""
    merged = merge_runs(runs, output)
    console.print(
        f"{merged.folder}: repeat the command that made the run with this folder for what is missing and the summary"
    )


@app.command()
def parquet(
    run: RunArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Where to write it (.parquet).", show_default=False),
    ],
) -> None:
    """The detections or localizations of a run as a Parquet file, a row per prompt."""
    console.print(f"{export_parquet(Run.load(run), output)} prompts: {output}")
