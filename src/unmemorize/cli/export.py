"""The commands ``export ...``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.types import PositiveInt

from unmemorize.cli._console import print_answer, print_hint, print_line
from unmemorize.cli._execution_options import RunArgument
from unmemorize.cli._groups import OPTIONS
from unmemorize.cli._model_options import ModelOptions, print_what_is_edited
from unmemorize.export import (
    LAYOUT_NAMES,
    bake,
    describe,
    edit_of,
    export_lora,
    export_results,
    export_single_file,
    layout_table,
    load_edit_file,
    model_card,
)
from unmemorize.generation import EditFile, truncate
from unmemorize.runs import Run

app = App(
    name="export",
    help="Write the neurons of a run in formats that other programs load.",
    group_parameters=OPTIONS,
)

NeuronsArgument = Annotated[
    Path, Parameter(help="Neuron file, such as RUN/neurons.json, or edit file.")
]
EvaluatedOption = Annotated[
    Path | None,
    Parameter(name="--run", help="Evaluated run whose numbers go into the model card."),
]
LayoutOption = Annotated[
    str | None,
    Parameter(
        help="The only layout to write: "
        f"{' or '.join(LAYOUT_NAMES)}. The default is all that fit the model.",
    ),
]
RankOption = Annotated[
    PositiveInt | None,
    Parameter(
        help="Cut trained weights to matrices of this rank, and say how much that leaves off. "
        "What was trained with harden --rank needs no cut.",
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
    """Write a diffusers folder with the neurons switched off, or another edit made, for good.

    Plain from_pretrained loads it. Only the rows of the neurons, or the layers of the edit, differ
    from the base. The folder also contains a model card (README.md) and the neuron or edit file.
    With --lora, the edit is that of the model with the LoRAs, and the folder holds base, LoRAs and
    edit.

    Args:
        output: Folder to write. It must not exist.
    """
    file = load_edit_file(neurons)
    loaded = model.load()
    print_what_is_edited(loaded)
    card = model_card(
        loaded,
        file,
        run=Run.load(run) if run else None,
        license_name=license_name,
    )
    folder = bake(loaded, file, output, card=card)
    print_line(f"{describe(edit_of(file))}: {folder}")
    print_answer(edit=describe(edit_of(file)), files=[folder])
    print_hint("unmemorize verify", folder, model.arguments)


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

    The weights of the edited layers are located in the file by their values. This is refused with
    --lora.

    Args:
        base: The model as one .safetensors file, in any layout.
        output: Edited copy to write (.safetensors).
    """
    file = load_edit_file(neurons)
    written = export_single_file(model.load(), file, base, output)
    print_line(f"{describe(edit_of(file))}: {written}")
    print_answer(edit=describe(edit_of(file)), files=[written])
    print_hint("unmemorize verify", written, model.arguments, "--base-file", base)


@app.command(help_epilogue=layout_table())
def lora(
    neurons: NeuronsArgument,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    layout: LayoutOption = None,
    rank: RankOption = None,
    run: EvaluatedOption = None,
    license_name: LicenseOption = None,
    model: ModelOptions = ModelOptions(),
) -> None:
    """Write a LoRA that switches the neurons off, or makes another edit.

    At strength 1 the edit is made, at strength 0 the model is the base. Trained weights of full
    rank are refused, unless --rank cuts them. Of the two layouts,
    pytorch_lora_weights.safetensors is for diffusers and MODEL-unmemorized-kohya.safetensors for
    other programs. The folder also contains a model card (README.md), which says the same. With
    --lora, what is written belongs beside these LoRAs, at the same strengths.

    Args:
        output: Folder to write.
    """
    file = load_edit_file(neurons)
    left_off = None
    if rank is not None:
        cut = truncate(edit_of(file), rank)
        assert isinstance(file, EditFile)  # as neurons cannot be cut
        file, left_off = replace(file, edit=cut.edit), cut.left_off
    loaded = model.load()
    print_what_is_edited(loaded)
    card = model_card(
        loaded,
        file,
        run=Run.load(run) if run else None,
        lora=True,
        layout=layout,
        license_name=license_name,
    )
    files = export_lora(loaded, file, output, layout=layout, card=card)
    print_line(f"{describe(edit_of(file))} at strength 1:")
    for written in files:
        print_line(f"  {written}")
    if left_off is not None:
        print_line(f"This is another edit than {neurons}, so nothing measured with that holds.")
    print_answer(edit=describe(edit_of(file)), files=files, left_off=left_off)
    print_hint("unmemorize verify", output, model.arguments)


@app.command
def upstream_csv(run: RunArgument, /, *, output: Annotated[Path, Parameter(alias="-o")]) -> None:
    """Write the neurons of a run as a result file of the published code.

    Args:
        output: File to write (.csv), separated by semicolons, with one list for each searched
            layer.
    """
    prompts = export_results(Run.load(run), output)
    print_line(f"{prompts} prompts: {output}")
    print_answer(prompts=prompts, file=output)
    print_hint("unmemorize report", run)
