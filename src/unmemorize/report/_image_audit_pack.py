"""What goes into the pack of evidence of an audit of images.

manifest.json, images.json, ...  the run folder: all of its records, and the closest image to each
references/                      the images that were asked about, named by their SHA-256

Controls are named by their SHA-256 in the manifest. A redacted pack has no name of an image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from unmemorize._files import to_json
from unmemorize.audit import IMAGES_RESULT, ImageAuditResult
from unmemorize.report._numbers import NUMBERS, TABLE
from unmemorize.report._packed_files import (
    LeftOut,
    Packing,
    absent_from_unpacked,
    images_left_out,
    packed_reference,
    reference_name,
    references_left_out,
)
from unmemorize.report._page import REPORT
from unmemorize.runs import MANIFEST, Run, hash_of_file

_STATE = "the state of an attack, on which no number rests"


def pack_image_audit(run: Run, *, redact: bool) -> Packing:
    """Collect what goes into the pack of an audit of images, whose report is written.

    Args:
        run: the audit.
        redact: whether the images are private.

    Raises:
        RunError: the audit is not finished, or a record is damaged.
        EvidenceError: an image has changed since.
    """
    result = ImageAuditResult.load(run)
    left_out = dict(_left_out(run.folder, result, redact))
    rewritten = {IMAGES_RESULT: _json(_packed_result(result, redact))}
    if redact:  # the command names the images
        rewritten[MANIFEST] = _json(replace(run.manifest, command=""))
    return Packing(dict(_files(run.folder, result, left_out)), rewritten, left_out)


def _packed_result(result: ImageAuditResult, redact: bool) -> ImageAuditResult:
    """Return the result with the images in the pack and without other paths."""
    findings = [
        replace(
            finding,
            file="" if redact else finding.file,
            image=packed_reference(finding.image),
        )
        for finding in result.findings
    ]
    return replace(result, findings=tuple(findings))


def _json(content: object) -> bytes:
    return (json.dumps(to_json(content), indent=1) + "\n").encode()


def _files(
    folder: Path, result: ImageAuditResult, left_out: dict[str, LeftOut]
) -> Iterator[tuple[str, Path]]:
    """Yield the files of the pack by name."""
    for name in (MANIFEST, REPORT, NUMBERS, TABLE):
        yield name, folder / name
    for path in folder.glob("[!.]*.jsonl"):
        yield path.name, path
    for finding in result.findings:
        for name, path in (
            (finding.closest, folder / finding.closest),
            (reference_name(finding.image), finding.image.locate(folder)),
        ):
            if name not in left_out:
                yield name, path


def _left_out(
    folder: Path, result: ImageAuditResult, redact: bool
) -> Iterator[tuple[str, LeftOut]]:
    """Yield what belongs to the evidence and is not in the pack."""
    shown = {finding.closest for finding in result.findings}
    images = [finding.image for finding in result.findings]
    yield from absent_from_unpacked(folder).items()
    yield from images_left_out(folder, shown, shown if redact else (), images)
    for path in sorted(folder.glob("*/*.safetensors")):
        yield path.relative_to(folder).as_posix(), LeftOut(hash_of_file(path), _STATE)
    yield from references_left_out(images, folder, redact=redact)
