"""The command ``verify``."""

from pathlib import Path

from rich.table import Table

from unmemorize._errors import ExportError
from unmemorize.cli._console import console, print_line
from unmemorize.cli._model_options import LoadingOptions
from unmemorize.export import Verification, describe, edit_of, verify


def command(
    artefact: Path,
    base: str,
    /,
    *,
    base_file: Path | None = None,
    loading: LoadingOptions = LoadingOptions(),
) -> None:
    """Check that an artefact changes a model as its neurons or edit say and no more.

    The rows that an edited checkpoint or a LoRA changes are listed. The exit code is 1 if anything
    else differs, or if a row does not have the value that it should have. What was made with --lora
    is compared with the base with the same --lora.

    Args:
        artefact: Neuron or edit file (.json), LoRA or its folder, edited folder, or edited single
            file.
        base: Model it was made from: a Hub id, a diffusers folder, or testbed.
        base_file: Single file that an edited single file was made from.
    """
    verification = verify(artefact, loading.load(base), base_file=base_file)
    edit = describe(edit_of(verification.edit))
    if verification.kind in ("neuron file", "edit file"):
        print_line(f"{artefact}: {edit}, for {base}, whose fingerprint fits")
        _print_loras(verification)
        return
    console.print(_table(verification))
    if not verification.passed:
        raise ExportError(
            f"{artefact}: it is not {base} with {edit} and nothing else changed. See the table."
        )
    print_line(f"{edit}: changed as it should be, and nothing else")
    _print_loras(verification)


def _print_loras(verification: Verification) -> None:
    places = {"LoRA": "It belongs beside", "checkpoint": "It holds"}
    place = places.get(verification.kind, "It is for the model with")
    for lora in verification.loras:
        print_line(f"{place} the LoRA {lora} (SHA-256 of its file: {lora.sha256})")


def _table(verification: Verification) -> Table:
    table = Table(pad_edge=False)
    for heading in ("file", "tensor", "rows that differ", ""):
        table.add_column(heading, overflow="fold")
    for change in verification.changes:
        rows = ", ".join(map(str, change.rows)) or ("all" if not change.key else "")
        remark = "" if change.expected else "not what the edit says"
        table.add_row(change.file, change.key, rows, remark)
    return table
