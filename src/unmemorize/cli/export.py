"""The commands ``export ...``."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from unmemorize.cli._console import print_hint, print_line
from unmemorize.cli._execution_options import RunArgument
from unmemorize.cli._groups import OPTIONS
from unmemorize.cli._model_options import ModelOptions
from unmemorize.export import (
    LAYOUTS,
    bake,
    export_lora,
    export_results,
    export_single_file,
    model_card,
)
from unmemorize.neurons import NeuronFile
from unmemorize.runs import Run

app = App(
    name="export",
    help="Write the neurons of a run in formats that other programs load.",
    group_parameters=OPTIONS,
)

NeuronsArgument = Annotated[Path, Parameter(help="Neuron file, such as RUN/neurons.json.")]
EvaluatedOption = Annotated[
    Path | None,
    Parameter(name="--run", help="Evaluated run whose numbers go into the model card."),
]
LayoutOption = Annotated[
    str,
    Parameter(
        help="Naming of the tensors: diffusers (for load_lora_weights) or kohya (for other "
        f"programs). One of {', '.join(LAYOUTS)}.",
    ),
]
LicenseOption = Annotated[
    str | None,
    Parameter(
        name="--license",
        help="License for the model card, spelled as on the Hub. The default is that of the base "
        "model's own card, else other.",
    ),
]


@app.command
def checkpoint(
    neurons: NeuronsArgument,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    run: EvaluatedOption = None,
    license_name: LicenseOption = None,
    model: ModelOptions = ModelOptions(),
) -> None:
    """Write a diffusers folder with the neurons switched off for good.

    Plain from_pretrained loads it. Only the rows of the neurons differ from the base. The folder
    also contains a model card (README.md) and the neuron file.

    Args:
        output: Folder to write. It must not exist.
    """
    file = NeuronFile.load(neurons)
    loaded = model.load()
    card = model_card(
        loaded,
        file,
        run=Run.load(run) if run else None,
        license_name=license_name,
    )
    folder = bake(loaded, file, output, card=card)
    print_line(f"{len(file.neurons)} neurons off: {folder}")
    print_hint(f"unmemorize verify {folder} {model.model}")


@app.command
def single_file(
    neurons: NeuronsArgument,
    base: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    model: ModelOptions = ModelOptions(),
) -> None:
    """Write an edited copy of a single-file checkpoint.

    The weights of the value layers are located in the file by their values.

    Args:
        base: The model as one .safetensors file, in any layout.
        output: Edited copy to write (.safetensors).
    """
    file = NeuronFile.load(neurons)
    written = export_single_file(model.load(), file, base, output)
    print_line(f"{len(file.neurons)} neurons off: {written}")


@app.command
def lora(
    neurons: NeuronsArgument,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    layout: LayoutOption = "diffusers",
    run: EvaluatedOption = None,
    license_name: LicenseOption = None,
    model: ModelOptions = ModelOptions(),
) -> None:
    """Write a LoRA that switches the neurons off.

    At strength 1 the neurons are off, at strength 0 they are on. The folder also contains a model
    card (README.md).

    Args:
        output: Folder to write.
    """
    file = NeuronFile.load(neurons)
    loaded = model.load()
    card = model_card(
        loaded,
        file,
        run=Run.load(run) if run else None,
        lora=True,
        license_name=license_name,
    )
    written = export_lora(loaded, file, output, layout=layout, card=card)
    print_line(f"{len(file.neurons)} neurons off at strength 1: {written}")
    print_hint(f"unmemorize verify {written} {model.model}")


@app.command
def upstream_csv(run: RunArgument, /, *, output: Annotated[Path, Parameter(alias="-o")]) -> None:
    """Write the neurons of a run as a result file of the published code.

    Args:
        output: File to write (.csv), separated by semicolons, with one list for each searched
            layer.
    """
    print_line(f"{export_results(Run.load(run), output)} prompts: {output}")
