"""The command ``verify``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from unmemorize._errors import ExportError
from unmemorize._model import Model, load_pipeline
from unmemorize._neurons import NeuronFile, Neurons
from unmemorize.cli._common import console
from unmemorize.export import NEURONS, changes, folder_of, read_lora


def command(
    artefact: Annotated[Path, typer.Argument(help="Edited folder, LoRA (.safetensors) or neuron file (.json).", show_default=False)],
    base: Annotated[str, typer.Argument(help="The model it was made from: Hub id, folder, or testbed.", show_default=False)],
) -> None:
    """See that an artefact belongs to a model, and list what an edited checkpoint changes in it.

    Exit code 1 when an edited folder differs from its base in anything but the rows of its neurons.
    """
    model = Model(load_pipeline(base, device="cpu"))
    if not artefact.is_dir():
        given = read_lora(artefact) if artefact.suffix == ".safetensors" else NeuronFile.load(artefact)
        given.check(model)
        console.print(f"{artefact}: {len(given.neurons)} neurons of {model.name}, whose fingerprint fits")
        return
    given = NeuronFile.load(artefact / NEURONS)
    given.check(model)
    found = list(changes(artefact, folder_of(model), model))
    table = Table(pad_edge=False)
    for heading in ("file", "tensor", "rows", ""):
        table.add_column(heading, overflow="fold")
    for change in found:
        rows = ", ".join(map(str, change.rows)) or "all"
        table.add_row(change.file, change.key, rows, "" if change.neurons else "not a neuron")
    console.print(table)
    edited = Neurons.of(neuron for change in found for neuron in change.neurons)
    foreign = [change for change in found if not change.neurons]
    if foreign or edited - given.neurons:
        raise ExportError(
            f"{artefact}: it changes more than the {len(given.neurons)} neurons that it names. Do not trust it as an edit of {base}."
        )
    silent = len(given.neurons - edited)
    console.print(
        f"{len(edited)} neurons changed, and nothing else" + (f"; {silent} more have the same weights as before" if silent else "")
    )
