"""The commands ``neurons ...``."""

from functools import reduce
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from unmemorize.cli._console import console
from unmemorize.neurons import NeuronFile, Operation

app = typer.Typer(
    help="Look at neuron files and combine them.", no_args_is_help=True, add_completion=False
)

FilesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILES", help="Neuron files of one model, two or more.", show_default=False
    ),
]
OutputOption = Annotated[
    Path,
    typer.Option("--output", "-o", help="Where to write the result (.json).", show_default=False),
]


@app.command()
def show(file: Annotated[Path, typer.Argument(help="A neuron file.", show_default=False)]) -> None:
    """Which neurons a file names, of which model, and how they were found."""
    given = NeuronFile.load(file)
    table = Table(pad_edge=False)
    for name in ("layer", "neurons"):
        table.add_column(name, overflow="fold")
    for layer, indices in given.neurons.layers.items():
        table.add_row(layer, ", ".join(map(str, indices)))
    console.print(table)
    console.print(
        f"{len(given.neurons)} neurons of {given.model} (fingerprint {given.fingerprint[:12]}), scale {given.scale:g}"
    )
    for name, value in given.found.items():
        console.print(f"{name}: {value}")


@app.command()
def union(files: FilesArgument, output: OutputOption) -> None:
    """Neurons that are in any of the files."""
    _combine(files, output, "union")


@app.command()
def intersection(files: FilesArgument, output: OutputOption) -> None:
    """Neurons that are in all of the files."""
    _combine(files, output, "intersection")


@app.command()
def difference(files: FilesArgument, output: OutputOption) -> None:
    """Neurons of the first file that are in none of the others."""
    _combine(files, output, "difference")


def _combine(files: list[Path], output: Path, operation: Operation) -> None:
    if len(files) < 2:
        raise typer.BadParameter("two or more files are needed")
    combined = reduce(lambda one, other: one.combine(other, operation), map(NeuronFile.load, files))
    combined.save(output)
    console.print(f"{len(combined.neurons)} neurons: {output}")
