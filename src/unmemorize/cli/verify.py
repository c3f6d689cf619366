"""The command ``verify``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from unmemorize._errors import ExportError
from unmemorize.cli._console import console
from unmemorize.cli._model_options import takes_model
from unmemorize.export import NEURONS, changes, folder_of, verify_lora
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model


@takes_model
def command(
    pipe: Model,
    artefact: Annotated[
        Path,
        typer.Argument(
            help="Edited folder, LoRA (.safetensors) or neuron file (.json).", show_default=False
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
) -> None:
    """See that an artefact belongs to a model, and list what an edited checkpoint changes in it.

    Exit code 1 when an edited folder differs from its base in anything but the rows of its neurons, or these have not the values that they
    should.
    """
    base = pipe
    if artefact.suffix == ".safetensors":
        console.print(
            f"{artefact}: switches {len(verify_lora(artefact, pipe).neurons)} neurons of {base.name} off, and does nothing else"
        )
        return
    if not artefact.is_dir():
        given = NeuronFile.load(artefact)
        given.check(base)
        console.print(
            f"{artefact}: {len(given.neurons)} neurons of {base.name}, whose fingerprint fits"
        )
        return
    given = NeuronFile.load(artefact / NEURONS)
    given.check(base)
    found = list(changes(artefact, folder_of(base), base, given))
    table = Table(pad_edge=False)
    for heading in ("file", "tensor", "rows that differ", ""):
        table.add_column(heading, overflow="fold")
    for change in found:
        rows = ", ".join(map(str, change.rows)) or ("all" if not change.key else "")
        table.add_row(
            change.file, change.key, rows, "" if change.asked else "not what the neuron file says"
        )
    console.print(table)
    if not all(change.asked for change in found):
        raise ExportError(
            f"{artefact}: it is not {model} with the {len(given.neurons)} neurons off that it names; see the table."
        )
    console.print(f"{len(given.neurons)} neurons changed as they should be, and nothing else")
