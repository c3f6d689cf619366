"""The commands ``neurons ...``."""

from functools import reduce
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from unmemorize._words import counted
from unmemorize.cli._console import console, print_answer, print_hint, print_line
from unmemorize.cli._groups import OPTIONS
from unmemorize.cli._model_options import option_of_model
from unmemorize.neurons import NeuronFile, Operation

app = App(
    name="neurons",
    help="Show and combine neuron files.",
    group_parameters=OPTIONS,
)

_NOTHING = "No neuron is left, so there is nothing to switch off or to export."


def _two_or_more(_: Any, files: list[Path]) -> None:
    if len(files) < 2:
        raise ValueError("two or more files are needed.")


FilesArgument = Annotated[
    list[Path],
    Parameter(
        validator=_two_or_more, metavar="FILE...", help="Two or more neuron files of one model."
    ),
]
OutputOption = Annotated[Path, Parameter(alias="-o", help="Neuron file to write (.json).")]


@app.command
def show(file: Path, /) -> None:
    """Show which neurons of which model a file names, and how they were found.

    Args:
        file: Neuron file.
    """
    content = NeuronFile.load(file)
    print_line(
        f"{counted(len(content.neurons), 'neuron')} of {content.model} "
        f"(fingerprint {content.fingerprint[:12]}), scale {content.scale:g}"
    )
    for layer, indices in content.neurons.layers.items():
        print_line(f"\n{layer}")
        console.print(f"  {', '.join(map(str, indices))}")
    print_line("")
    for name, value in content.found.items():
        print_line(f"{name}: {value}")
    print_answer(content.to_json())
    if not content.neurons:
        print_line(_NOTHING)
        return
    print_hint("unmemorize export lora", file, option_of_model(content.model), "-o FOLDER")


@app.command
def union(files: FilesArgument, /, *, output: OutputOption) -> None:
    """Write the neurons that are in any of the files."""
    _combine(files, output, "union")


@app.command
def intersection(files: FilesArgument, /, *, output: OutputOption) -> None:
    """Write the neurons that are in all of the files."""
    _combine(files, output, "intersection")


@app.command
def difference(files: FilesArgument, /, *, output: OutputOption) -> None:
    """Write the neurons of the first file that are in none of the other files."""
    _combine(files, output, "difference")


def _combine(files: list[Path], output: Path, operation: Operation) -> None:
    combined = reduce(lambda one, other: one.combine(other, operation), map(NeuronFile.load, files))
    combined.save(output)
    print_line(f"{counted(len(combined.neurons), 'neuron')}: {output}")
    print_answer(neurons=len(combined.neurons), file=output)
    if not combined.neurons:
        print_line(_NOTHING)
        return
    print_hint("unmemorize generate RUN --neurons", output, option_of_model(combined.model))
