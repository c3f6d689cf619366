"""The command ``report``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unmemorize._errors import EvidenceError
from unmemorize.audit import ImageAuditRun
from unmemorize.cli._common import known_neurons, refuse_unwritable
from unmemorize.cli._console import print_answer, print_hint, print_line
from unmemorize.cli._execution_options import RunArgument
from unmemorize.cli._model_options import Flag, option_of_model
from unmemorize.comparison import ComparisonRun
from unmemorize.localization import LocalizationRun
from unmemorize.mitigation import MitigationRun
from unmemorize.neurons import NeuronFile
from unmemorize.report import REPORT, Signer, write_evidence, write_report
from unmemorize.runs import Run


def command(
    run: RunArgument,
    /,
    *,
    pack: Annotated[Path | None, Parameter(show_default=False)] = None,
    redact: Flag = False,
    statement: Annotated[Path | None, Parameter(show_default=False)] = None,
    sign: Annotated[Path | None, Parameter(show_default=False)] = None,
    key: Annotated[Path | None, Parameter(show_default=False)] = None,
) -> None:
    """Write one web page with the verdicts or the summary, and every memorized prompt.

    The page is RUN/report.html, that of a comparison RUN/compare.html. It contains all of its
    images and needs no network. That of a mitigation or of an audit of images comes with its
    numbers as report.json and report.csv.

    Args:
        pack: Also write the report of a mitigation or of an audit of images, and everything that it
            rests on, as one ZIP file, for unmemorize verify.
        redact: Leave out training images, the images of unmemorize audit --image with their names,
            and generated images that show them. Their hashes stay.
        statement: JSON file with what only you can state about a mitigation, such as who ran it and
            how works were chosen. It is copied into RUN, and each report quotes it.
        sign: Sign the pack by C2PA with this certificate (PEM; those of its issuers may follow). It
            needs --key, and pip install 'unmemorize[c2pa]'.
        key: Private key of the certificate (PEM, without a password).
    """
    folder = Run.load(run)
    signer = _signer(pack, sign, key)
    if pack is not None:
        refuse_unwritable(pack, EvidenceError)
        digest = write_evidence(folder, pack, redact=redact, signer=signer, statement=statement)
        print_line(f"report: {folder.folder / REPORT}")
        print_line(f"evidence: {pack}" + (", signed" if signer else ""))
        print_line(f"SHA-256 of the pack: {digest}")
        print_line("Keep this number apart from the pack: it shows later that nothing changed.")
        print_answer(report=folder.folder / REPORT, pack=pack, sha256=digest)
        print_hint("unmemorize verify", pack)
        return
    page = write_report(folder, known_neurons(folder), redact=redact, statement=statement)
    print_line(str(page))
    print_answer(report=page)
    print_hint(*_next(folder), *(("--redact",) if redact else ()))


def _signer(pack: Path | None, sign: Path | None, key: Path | None) -> Signer | None:
    """Load certificate and key, where they are given, before any work is done."""
    if sign is None and key is None:
        return None
    if pack is None:
        raise EvidenceError("--sign: what is signed is a pack of evidence. Add --pack FILE.")
    if sign is None or key is None:
        raise EvidenceError("--sign CERTIFICATE and --key FILE belong together. Give both.")
    return Signer.load(sign, key)


def _next(run: Run) -> Sequence[str | Path]:
    """Return the command that follows the report of a run of this kind, in parts."""
    model = option_of_model(run.manifest.model)
    neurons = run.folder / "neurons.json"
    pack = ("unmemorize report", run.folder, "--pack evidence.zip")
    commands: dict[str, Sequence[str | Path]] = {
        MitigationRun.kind: pack,
        ImageAuditRun.kind: pack,
        ComparisonRun.kind: ("unmemorize mitigate SUSPECTS", model, "-o RUN"),
    }
    if neurons.exists() and NeuronFile.load(neurons).neurons:
        commands[LocalizationRun.kind] = (
            "unmemorize export checkpoint",
            neurons,
            model,
            "-o FOLDER",
        )
    return commands.get(run.manifest.kind, ("unmemorize status", run.folder))
