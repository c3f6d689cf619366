"""A pack of evidence: one file with the report of a run, its records, images and hashes.

evidence.json      the files of the pack and what was left out, each with its SHA-256
report.html        the report, with report.json and report.csv
manifest.json ...  the run folder: all of its records, and the images that the report is about
references/        the images that the run was asked about, named by their SHA-256

Unpacked, it is a run folder, which names what the pack has left out. The same run gives the same
bytes, unless the pack is signed, and so does the run folder that was unpacked.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO

from unmemorize._errors import EvidenceError, RunError
from unmemorize._files import atomic_file, to_json
from unmemorize.audit import ImageAuditRun
from unmemorize.mitigation import MitigationRun
from unmemorize.report._image_audit_pack import pack_image_audit
from unmemorize.report._mitigation_pack import pack_mitigation
from unmemorize.report._packed_files import CONTENTS, SCHEMA, Contents, PackedFile, Packing
from unmemorize.report._signature import Signer
from unmemorize.report._write import write_report
from unmemorize.runs import Run

_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the pack: the first that a ZIP archive can hold."""
_PACKINGS = {MitigationRun.kind: pack_mitigation, ImageAuditRun.kind: pack_image_audit}


def write_evidence(
    run: Run | str | Path,
    path: str | Path,
    *,
    redact: bool = False,
    signer: Signer | None = None,
    statement: str | Path | None = None,
) -> str:
    """Write the report of a run, then everything that it rests on as one ZIP file.

    Args:
        run: a finished mitigation or a finished audit of images, or its folder.
        path: the file, which is replaced if it exists.
        redact: whether training images, or the images that were asked about, are private. They are
            left out of report and pack then, with all generated images that show them. Their hashes
            stay.
        signer: signs the pack by C2PA; None for no signature.
        statement: a JSON file with what only the operator can state, see `write_report`.

    Returns:
        The SHA-256 of the pack. Keep it apart from the pack: it shows later that nothing changed.

    Raises:
        RunError: the run is of another kind or not finished, a record is damaged, or the statement
            is malformed or for a run that is no mitigation.
        EvidenceError: a training image has changed since, the pack cannot be written or signed, or
            the folder comes from a redacted pack and ``redact`` is False.
        MetricError: an image is missing or damaged.
    """
    run = Run.of(run)
    packing_of = _PACKINGS.get(run.manifest.kind)
    if packing_of is None:
        raise RunError(
            f"{run.folder}: only mitigations and audits of images have packs of evidence, and this "
            f"is a run of kind {run.manifest.kind}. Hand over the whole folder in its place, with "
            "its report, and keep the SHA-256 of what you hand over apart from it."
        )
    write_report(run, redact=redact, statement=statement)
    packing = packing_of(run, redact=redact)
    path = Path(path)
    with atomic_file(path, EvidenceError) as file:
        if signer is None:
            _write(file, packing, redact=redact)
        else:
            with tempfile.TemporaryFile(dir=path.parent) as unsigned:
                _write(unsigned, packing, redact=redact)
                signer.sign(unsigned, file)
    with path.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256")
    return digest.hexdigest()


def _write(file: BinaryIO, packing: Packing, *, redact: bool) -> None:
    """Write the files of the pack, then their list."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as pack:
        listed = {}
        for name in sorted({*packing.files, *packing.rewritten}):
            content = packing.content(name)
            listed[name] = PackedFile(hashlib.sha256(content).hexdigest(), len(content))
            pack.writestr(_entry(name), content)
        left_out = dict(sorted(packing.left_out.items()))
        contents = to_json(Contents(SCHEMA, redact, listed, left_out))
        pack.writestr(_entry(CONTENTS), json.dumps(contents, indent=1) + "\n")


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EARLIEST)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # what is stored does not depend on the system
    return entry
