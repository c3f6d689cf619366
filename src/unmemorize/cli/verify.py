"""The command ``verify``."""

from pathlib import Path

from rich.table import Table

from unmemorize._errors import ExportError
from unmemorize.cli._console import console
from unmemorize.cli._model_options import LoadingOptions
from unmemorize.export import NEURONS, changes, folder_of, verify_lora
from unmemorize.neurons import NeuronFile


def command(
    artefact: Path,
    base: str,
    /,
    *,
    loading: LoadingOptions = LoadingOptions(),
) -> None:
    """Check that an artefact belongs to a model and changes nothing else in it.

    For an edited folder, every tensor that differs from the base is listed. The exit code is 1 if
    anything but the rows of its neurons differs, or if these rows have unexpected values.

    Args:
        artefact: Edited folder, LoRA (.safetensors) or neuron file (.json).
        base: Model it was made from: a Hub id, a diffusers folder, or testbed.
    """
    model = loading.load(base)
    if artefact.suffix == ".safetensors":
        count = len(verify_lora(artefact, model).neurons)
        console.print(
            f"{artefact}: switches {count} neurons of {model.name} off, and does nothing else"
        )
        return
    if not artefact.is_dir():
        file = NeuronFile.load(artefact)
        file.check(model)
        console.print(
            f"{artefact}: {len(file.neurons)} neurons of {model.name}, whose fingerprint fits"
        )
        return
    file = NeuronFile.load(artefact / NEURONS)
    file.check(model)
    differences = list(changes(artefact, folder_of(model), model, file))
    table = Table(pad_edge=False)
    for heading in ("file", "tensor", "rows that differ", ""):
        table.add_column(heading, overflow="fold")
    for change in differences:
        rows = ", ".join(map(str, change.rows)) or ("all" if not change.key else "")
        table.add_row(
            change.file, change.key, rows, "" if change.asked else "not what the neuron file says"
        )
    console.print(table)
    if not all(change.asked for change in differences):
        raise ExportError(
            f"{artefact}: it is not {base} with only the {len(file.neurons)} neurons off that it "
            "names. See the table."
        )
    console.print(f"{len(file.neurons)} neurons changed as they should be, and nothing else")
