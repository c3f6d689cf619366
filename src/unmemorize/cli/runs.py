"""The commands ``runs ...``."""

import json
import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from unmemorize.cli._console import print_answer, print_hint, print_line
from unmemorize.cli._execution_options import RunArgument
from unmemorize.cli._groups import OPTIONS
from unmemorize.export import export_parquet
from unmemorize.runs import Run, merge_runs

app = App(
    name="runs",
    help="Join the shards of a run, or write its records as a table.",
    group_parameters=OPTIONS,
)


@app.command
def merge(
    runs: Annotated[list[Path], Parameter(metavar="RUN...")],
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
) -> None:
    """Join the shards of a run, from one folder or from several machines.

    Args:
        runs: Folders that hold shards of the same run.
        output: New run folder to write.
    """
    merged = merge_runs(runs, output)
    print_line(str(merged.folder))
    print_answer(run=merged.folder)
    print_hint(
        f"the command that made the run, with -o {merged.folder}; it does what is missing and "
        "shows the summary"
    )


@app.command
def parquet(run: RunArgument, /, *, output: Annotated[Path, Parameter(alias="-o")]) -> None:
    """Write the records of a run as a Parquet file.

    There is one row per prompt; of an audit one per arm, attack and prompt, of an audit of images
    one per image, of a comparison those of comparison.csv.

    Args:
        output: File to write (.parquet).
    """
    rows = export_parquet(Run.load(run), output)
    print_line(f"{rows} rows: {output}")
    print_answer(rows=rows, file=output)
    read = f"import pandas; print(pandas.read_parquet({json.dumps(str(output))}))"
    print_hint(f"python -c {shlex.quote(read)}")
