"""The commands ``export ...``."""

from pathlib import Path
from typing import Annotated

import typer

from unmemorize.cli._console import console
from unmemorize.cli._model_options import takes_model
from unmemorize.cli._options import RunArgument
from unmemorize.export import (
    bake,
    export_lora,
    export_results,
    export_single_file,
    model_card,
)
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model
from unmemorize.runs import Run

app = typer.Typer(
    help="Write what was found in forms that other programs load.",
    no_args_is_help=True,
    add_completion=False,
)

NeuronsArgument = Annotated[
    Path,
    typer.Argument(
        metavar="NEURONS", help="Neuron file, such as RUN/neurons.json.", show_default=False
    ),
]
EvaluatedOption = Annotated[
    Path | None,
    typer.Option(
        "--run", help="An evaluated run, whose numbers go into the model card.", show_default=False
    ),
]

LicenseOption = Annotated[
    str | None,
    typer.Option(
        "--license",
        help="Of the base, for the card, as the Hub writes it. [default: that of its own card, or other]",
        show_default=False,
    ),
]


@app.command()
@takes_model
def checkpoint(
    pipe: Model,
    neurons: NeuronsArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder, which must not exist.", show_default=False),
    ],
    run: EvaluatedOption = None,
    license_name: LicenseOption = None,
) -> None:
    """A complete diffusers folder with the neurons off for good, for plain from_pretrained; only their rows change.

    A model card (README.md) and the neuron file go with it. See unmemorize verify.
    """
    given = NeuronFile.load(neurons)
    card = model_card(
        pipe,
        given,
        run=Run.load(run) if run else None,
        license_name=license_name,
    )
    console.print(f"{len(given.neurons)} neurons off: {bake(pipe, given, output, card=card)}")


@app.command("single-file")
@takes_model
def single_file(
    pipe: Model,
    neurons: NeuronsArgument,
    base: Annotated[
        Path,
        typer.Argument(
            help="The model as one .safetensors file, in any layout.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The edited copy.", show_default=False)
    ],
) -> None:
    """An edited copy of a single-file checkpoint: the weights of the value layers are found in it by their values."""
    given = NeuronFile.load(neurons)
    console.print(
        f"{len(given.neurons)} neurons off: {export_single_file(pipe, given, base, output)}"
    )


@app.command()
@takes_model
def lora(
    pipe: Model,
    neurons: NeuronsArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.", show_default=False)],
    layout: Annotated[
        str,
        typer.Option(help="Names of the tensors: of diffusers, or kohya for other programs."),
    ] = "diffusers",
    run: EvaluatedOption = None,
    license_name: LicenseOption = None,
) -> None:
    """A LoRA for load_lora_weights: at strength 1 the neurons are off, at 0 on. A model card goes with it."""
    given = NeuronFile.load(neurons)
    card = model_card(
        pipe,
        given,
        run=Run.load(run) if run else None,
        lora=True,
        license_name=license_name,
    )
    console.print(
        f"{len(given.neurons)} neurons off at strength 1: {export_lora(pipe, given, output, layout=layout, card=card)}"
    )


@app.command("upstream-csv")
def upstream_csv(
    run: RunArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it (.csv).")],
) -> None:
    """The neurons of a run as a result file of the published code: `;` separated, one list per searched layer."""
    console.print(f"{export_results(Run.load(run), output)} prompts: {output}")
