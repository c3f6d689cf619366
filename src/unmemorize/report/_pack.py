"""A pack of evidence: one file with the report of a mitigation, its records, images and hashes.

evidence.json      the files of the pack and what was left out, each with its SHA-256
report.html        the report, with report.json and report.csv
manifest.json ...  the run folder: all of its records, and the images that the report is about
audit/NAME/        settings and verdicts of audits of the edit, without their images
references/        the training images, named by their SHA-256

Unpacked, it is a run folder. The same run gives the same bytes, unless the pack is signed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from unmemorize._errors import EvidenceError, RunError
from unmemorize._files import atomic_file, to_json
from unmemorize.audit import RESULT
from unmemorize.generation import weight_edits
from unmemorize.localization import difference_file
from unmemorize.mitigation import EDIT, MitigationRun
from unmemorize.mitigation import RESULT as MITIGATION
from unmemorize.report._audit import audits_of
from unmemorize.report._evidence import Evidence, read_evidence
from unmemorize.report._mitigation import NUMBERS, TABLE, write_mitigation_report
from unmemorize.report._page import REPORT
from unmemorize.report._provenance import output_hashes
from unmemorize.report._redaction import shown_after
from unmemorize.report._regions import region_file
from unmemorize.report._signature import Signer
from unmemorize.report._spot_check import SPOT_CHECK
from unmemorize.report._statement import STATEMENT
from unmemorize.runs import MANIFEST, MODEL_FILES, Run, StoredImage, hash_of_file, stream_prompts

SCHEMA = "unmemorize.evidence/1"
CONTENTS = "evidence.json"
PROMPTS = "prompts.jsonl"
_REFERENCES = "references"
_JSON = (MANIFEST, MITIGATION, EDIT, MODEL_FILES, SPOT_CHECK, STATEMENT)
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the pack: the first that a ZIP archive can hold."""
_PRIVATE = "private"
_NOT_SHOWN = "the report does not show it"
_OUTPUT = "the edited model is kept apart"
_GONE = "not there when the pack was made"


@dataclass(frozen=True)
class LeftOut:
    """A file that belongs to the evidence and is not in the pack.

    Args:
        sha256: its hash.
        why: why it was left out.
    """

    sha256: str
    why: str


@dataclass(frozen=True)
class PackedFile:
    """What ``evidence.json`` says about a file of the pack.

    Args:
        sha256: its hash.
        bytes: its size.
    """

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Contents:
    """The content of ``evidence.json``.

    Args:
        schema: the version of the format.
        redacted: whether private images were left out.
        files: the files of the pack by name.
        left_out: what belongs to the evidence and is not in the pack, by name.
    """

    schema: str
    redacted: bool
    files: dict[str, PackedFile]
    left_out: dict[str, LeftOut]


def write_evidence(
    run: Run | str | Path,
    path: str | Path,
    *,
    redact: bool = False,
    signer: Signer | None = None,
    statement: str | Path | None = None,
) -> str:
    """Write the report of a mitigation, then everything that it rests on as one ZIP file.

    Args:
        run: a finished mitigation, or its folder.
        path: the file, which is replaced if it exists.
        redact: whether training images are private. They are left out of report and pack then, with
            all generated images that show them. Their hashes stay.
        signer: signs the pack by C2PA; None for no signature.
        statement: a JSON file with what only the operator can state, see `write_report`.

    Returns:
        The SHA-256 of the pack. Keep it apart from the pack: it shows later that nothing changed.

    Raises:
        RunError: the run is no mitigation or not finished, a record is damaged, or the statement
            is malformed.
        EvidenceError: a training image has changed since, or the pack cannot be written or signed.
        MetricError: an image is missing or damaged.
    """
    run = Run.of(run)
    if run.manifest.kind != MitigationRun.kind:
        raise RunError(
            f"{run.folder}: only mitigations have packs of evidence, and this is a run of kind "
            f"{run.manifest.kind}. Hand over the whole folder in its place, with its report, and "
            "keep the SHA-256 of what you hand over apart from it."
        )
    write_mitigation_report(run, redact=redact, statement=statement)
    evidence = read_evidence(run)
    left_out = dict(_left_out(evidence, redact))
    files = dict(_files(evidence, left_out))
    path = Path(path)
    with atomic_file(path, EvidenceError) as file:
        if signer is None:
            _write(file, evidence, files, left_out, redact)
        else:
            with tempfile.TemporaryFile(dir=path.parent) as unsigned:
                _write(unsigned, evidence, files, left_out, redact)
                signer.sign(unsigned, file)
    with path.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256")
    return digest.hexdigest()


def _write(
    file: BinaryIO,
    evidence: Evidence,
    files: Mapping[str, Path],
    left_out: Mapping[str, LeftOut],
    redact: bool,
) -> None:
    """Write the files of the pack, then their list."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as pack:
        listed = {}
        for name in sorted(files):
            content = _content(evidence, name, files[name])
            listed[name] = PackedFile(hashlib.sha256(content).hexdigest(), len(content))
            pack.writestr(_entry(name), content)
        left = {name: left_out[name] for name in sorted(left_out)}
        contents = to_json(Contents(SCHEMA, redact, listed, left))
        pack.writestr(_entry(CONTENTS), json.dumps(contents, indent=1) + "\n")


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EARLIEST)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # what is stored does not depend on the system
    return entry


def _content(evidence: Evidence, name: str, source: Path) -> bytes:
    if name == PROMPTS:
        return _prompts(evidence)
    try:
        return source.read_bytes()
    except OSError as problem:
        raise EvidenceError(
            f"{source}: cannot be read ({problem.strerror}). Repeat unmemorize mitigate; it makes "
            "again what is missing."
        ) from problem


def _prompts(evidence: Evidence) -> bytes:
    """Return the prompt list with the training images in the pack and without other paths."""
    rows = []
    for prompt, images in zip(stream_prompts(evidence.run), evidence.references, strict=True):
        packed = [
            {"path": reference_name(image), "absolute": "", "sha256": image.sha256}
            for image in images
        ]
        row = {**to_json(prompt), "images": packed}
        rows.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(rows).encode()


def reference_name(image: StoredImage) -> str:
    """Return the name of a training image in a pack.

    Examples:
        >>> reference_name(StoredImage(path="", absolute="/home/me/cat.PNG", sha256="12ab"))
        'references/12ab.png'
    """
    suffix = PurePosixPath(image.absolute or image.path).suffix.lower()
    return f"{_REFERENCES}/{image.sha256 or 'not-readable'}{suffix}"


def _files(evidence: Evidence, left_out: dict[str, LeftOut]) -> Iterator[tuple[str, Path]]:
    """Yield the files of the pack by name."""
    folder = evidence.run.folder
    for name in (*_JSON, REPORT, NUMBERS, TABLE):
        if (folder / name).exists():
            yield name, folder / name
    if evidence.result.file is not None:  # without the tensors that it names, it is no edit
        for part in weight_edits(evidence.result.file.edit):
            yield part.file_name, folder / part.file_name
    for path in folder.glob("[!.]*.jsonl"):
        yield path.name, path
    for audit in audits_of(evidence.run, None):
        for name in (MANIFEST, RESULT):
            yield f"{audit.name}/{name}", audit.run.folder / name
    for name in _images(evidence):
        if name not in left_out:
            yield name, folder / name
    for image in _references(evidence):
        if reference_name(image) not in left_out:
            yield reference_name(image), image.locate(folder)


def _left_out(evidence: Evidence, redact: bool) -> Iterator[tuple[str, LeftOut]]:
    """Yield what belongs to the evidence and is not in the pack."""
    folder = evidence.run.folder
    needed = _images(evidence)
    private = _private(evidence) if redact else set()
    for path in sorted(folder.glob("*/*.png")):
        name = path.relative_to(folder).as_posix()
        if name not in needed:
            yield name, LeftOut(hash_of_file(path), _NOT_SHOWN)
        elif name in private:
            yield name, LeftOut(hash_of_file(path), _PRIVATE)
    for name, digest in output_hashes(evidence.run).items():
        if name not in _JSON:
            yield name, LeftOut(digest, _OUTPUT)
    for image in _references(evidence):
        found = hash_of_file(image.locate(folder))
        if redact or not found:
            yield reference_name(image), LeftOut(image.sha256, _PRIVATE if redact else _GONE)
        elif found != image.sha256:
            raise EvidenceError(
                f"{image.locate(folder)}: this training image is not the one that the run was made "
                "with. Put that one back, or repeat the run in a new folder."
            )


def _references(evidence: Evidence) -> list[StoredImage]:
    return [image for images in evidence.references for image in images]


def _images(evidence: Evidence) -> set[str]:
    """Name the images of the run folder that the report is about."""
    result, folder = evidence.result, evidence.run.folder
    names = {
        name
        for outcome in result.outcomes
        for files in (outcome.files_before, outcome.files_after, outcome.files_left)
        for name in (*files, *outcome.files_control)
    }
    names |= {
        name
        for outcome in result.outcomes
        for paraphrase in outcome.paraphrases
        for name in paraphrase.files_left
    }
    names |= {
        name
        for outcome in evidence.confirmed
        for name in (difference_file(outcome.index), region_file(outcome.index))
        if (folder / name).exists()
    }
    changes = [candidate.change for candidate in result.candidates]
    for change in (result.ordinary, result.ordinary_control, *changes):
        shown = change.shown if change is not None else ()
        folders = {PurePosixPath(file).parent.name for _, *files in shown for file in files}
        for kind in folders:
            names |= {f"{kind}/{path.name}" for path in (folder / kind).glob("*.png")}
    return names


def _private(evidence: Evidence) -> set[str]:
    """Name the images that show training images, see `unmemorize.report._redaction`."""
    names: set[str] = {name for record in evidence.before.values() for name in record.files}
    for outcome in evidence.confirmed:
        public = shown_after(outcome, redact=True)
        names |= {name for seed, name in enumerate(outcome.files_after) if seed not in public}
        names |= {*outcome.files_left, *outcome.files_control, difference_file(outcome.index)}
        names.add(region_file(outcome.index))
        names |= {name for paraphrase in outcome.paraphrases for name in paraphrase.files_left}
    return names
