"""The command ``verify``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from unmemorize._errors import ExportError
from unmemorize.cli._console import console
from unmemorize.cli._model_options import takes_model
from unmemorize.export import Verification, verify
from unmemorize.pipelines import Model


@takes_model
def command(
    pipe: Model,
    artefact: Annotated[
        Path,
        typer.Argument(
            help="Neuron file (.json), LoRA or its folder, edited folder, or edited single file.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Argument(
            metavar="BASE",
            help="The model it was made from: Hub id, folder, or testbed.",
            show_default=False,
        ),
    ],
    base_file: Annotated[
        Path | None,
        typer.Option(
            help="The single file that an edited single file was made from.", show_default=False
        ),
    ] = None,
) -> None:
    """Check that an artefact does to a model what its neurons say, and nothing else.

    Lists the rows that an edited checkpoint or a LoRA changes. Exit code 1 when something else
    differs, or a row does not have the value it should have.
    """
    verification = verify(artefact, pipe, base_file=base_file)
    count = len(verification.neurons.neurons)
    if verification.kind == "neuron file":
        console.print(f"{artefact}: {count} neurons of {model}, whose fingerprint fits")
        return
    console.print(_table(verification))
    if not verification.passed:
        raise ExportError(
            f"{artefact}: it is not {model} with the {count} neurons off that it names; "
            "see the table."
        )
    console.print(f"{count} neurons changed as they should be, and nothing else")


def _table(verification: Verification) -> Table:
    table = Table(pad_edge=False)
    for heading in ("file", "tensor", "rows that differ", ""):
        table.add_column(heading, overflow="fold")
    for change in verification.changes:
        rows = ", ".join(map(str, change.rows)) or ("all" if not change.key else "")
        remark = "" if change.expected else "not what the neuron file says"
        table.add_row(change.file, change.key, rows, remark)
    return table
