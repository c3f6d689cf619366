"""The command ``verify``."""

import zipfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unmemorize._errors import ExportError
from unmemorize._paths import exists, is_file
from unmemorize.cli._console import console, print_answer, print_hint, print_line
from unmemorize.cli._model_options import LoadingOptions, ModelOptions
from unmemorize.export import EDIT, Verification, describe, edit_of, verify
from unmemorize.report import Signature, verify_evidence

_OTHER_FILES = (".json", ".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def command(
    artefact: Path,
    base: Annotated[str | None, Parameter(show_default=False)] = None,
    /,
    *,
    base_file: Path | None = None,
    trust: Annotated[Path | None, Parameter(show_default=False)] = None,
    loading: LoadingOptions = LoadingOptions(),
) -> None:
    """Check that an artefact changes a model as it says and no more, or check a pack of evidence.

    The rows that an edited checkpoint or a LoRA changes are listed. What was made with --lora is
    compared with the base with the same --lora. Of a pack of evidence (unmemorize report --pack),
    the hashes of all files are compared, every number is computed again from the records, and a
    signature is checked. The exit code is 1 if anything differs.

    Args:
        artefact: Neuron or edit file (.json), LoRA or its folder, edited folder, edited single
            file, or pack of evidence (a ZIP file under any name).
        base: Model it was made from: a Hub id, a diffusers folder, or testbed. A pack of evidence
            needs none.
        base_file: Single file that an edited single file was made from.
        trust: Certificate (PEM) under which a pack of evidence must be signed: that of the signer's
            issuer, or the signer's own if it has no other issuer.
    """
    if _is_pack(artefact):
        if base is not None or base_file is not None:
            raise ExportError(
                f"{artefact}: a pack of evidence is compared with no model. Leave the model and "
                "--base-file out."
            )
        _verify_pack(artefact, trust)
        return
    if trust is not None:
        raise ExportError(f"{artefact}: --trust is for packs of evidence (.zip). Leave it out.")
    if not exists(artefact):
        raise ExportError(f"{artefact}: there is no such file or folder. Check the path.")
    if base is None:
        raise ExportError(
            f"{artefact}: name the model it was made from: unmemorize verify {artefact} MODEL"
        )
    model = ModelOptions(model=base, loading=loading)
    verification = verify(artefact, model.load(), base_file=base_file)
    edit = describe(edit_of(verification.edit))
    print_answer(
        artefact=artefact,
        kind=verification.kind,
        base=verification.base,
        edit=edit,
        passed=verification.passed,
        changes=verification.changes,
    )
    if verification.kind in ("neuron file", "edit file"):
        print_line(f"{artefact}: {edit}, for {base}, whose fingerprint fits")
        _print_loras(verification)
        print_hint("unmemorize audit", artefact, model.option, "-o AUDIT")
        return
    if verification.passed:
        print_line(f"{edit}: changed as it should be, and nothing else")
    _print_changes(verification)
    if not verification.passed:
        raise ExportError(
            f"{artefact}: it is not {base} with {edit} and nothing else changed. See the table."
        )
    _print_loras(verification)
    carried = artefact / EDIT
    edit_file = carried if carried.exists() else "EDIT.json"
    print_hint("unmemorize audit", edit_file, model.option, "--prompts MEMORIZED -o AUDIT")


def _is_pack(artefact: Path) -> bool:
    """Tell whether a path is a pack of evidence, by its ending or by its content.

    Files of weights may be ZIP archives, too.
    """
    ending = artefact.suffix.lower()
    if ending == ".zip":
        return True
    return ending not in _OTHER_FILES and is_file(artefact) and zipfile.is_zipfile(artefact)


def _print_loras(verification: Verification) -> None:
    places = {"LoRA": "It belongs beside", "checkpoint": "It holds"}
    place = places.get(verification.kind, "It is for the model with")
    for lora in verification.loras:
        print_line(f"{place} the LoRA {lora} (SHA-256 of its file: {lora.sha256})")


def _verify_pack(pack: Path, trust: Path | None) -> None:
    """Check a pack of evidence and say what that shows."""
    check = verify_evidence(pack, trust=trust)
    print_answer(check)
    print_line(f"{pack}: consistent. {check.files} files have the hashes that they should have.")
    print_line(f"{check.numbers} numbers of the report follow from the records.")
    if check.unchecked:
        print_line(f"The records do not tell: {', '.join(check.unchecked)}.")
    private = ", private images among them" if check.redacted else ""
    print_line(f"{check.left_out} files are not in the pack{private}; it holds their hashes.")
    print_line(f"SHA-256 of the pack: {check.sha256}")
    _print_origin(check.signature)


def _print_origin(signature: Signature | None) -> None:
    """Say what is known about where a pack comes from."""
    if signature is None:
        print_line(
            "The pack is not signed: this shows that it is consistent, not where it comes from. "
            "Compare its SHA-256 with the one that was kept apart."
        )
        return
    print_line(f"Signed by {signature.subject}. The signature fits all files of the pack.")
    print_line(f"The certificate was issued by {signature.issuer}, number {signature.serial}.")
    if signature.trusted:
        print_line(
            "It was issued under a certificate that you trust: the pack is from who has its key."
        )
    else:
        print_line(
            "Nobody vouches for these names: anybody can write them into a certificate. Get the "
            "issuer's certificate from somebody you trust, and repeat with --trust CERTIFICATE."
        )


def _print_changes(verification: Verification) -> None:
    """Print the differences, those of the same rows in one file together."""
    together: dict[tuple[str, str, bool], list[str]] = {}
    for change in verification.changes:
        rows = _ranges(change.rows) or ("all" if not change.key else "")
        together.setdefault((change.file, rows, change.expected), []).append(change.key)
    for (file, rows, expected), keys in together.items():
        print_line(f"\n{file}" + ("" if expected else "  <- not what the edit says"))
        console.print(f"  rows that differ: {rows}" if rows else "  no row differs")
        for key in filter(None, keys):
            print_line(f"    {key}")
    print_line("")


def _ranges(rows: Sequence[int]) -> str:
    """Write increasing numbers shortly, such as "0 to 47, 60"."""
    runs = [
        [row for _, row in run]
        for _, run in groupby(enumerate(rows), key=lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(f"{run[0]} to {run[-1]}" if run[1:] else f"{run[0]}" for run in runs)
