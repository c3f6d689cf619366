"""What goes into the pack of evidence of a mitigation.

manifest.json ...  the run folder: all of its records, and the images that the report is about
audit/NAME/        settings and verdicts of audits of the edit, without their images
references/        the training images, named by their SHA-256
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from unmemorize._files import to_json
from unmemorize.audit import RESULT
from unmemorize.generation import weight_edits
from unmemorize.localization import difference_file
from unmemorize.mitigation import EDIT
from unmemorize.mitigation import RESULT as MITIGATION
from unmemorize.report._audit import audits_of
from unmemorize.report._evidence import Evidence, read_evidence
from unmemorize.report._numbers import NUMBERS, TABLE
from unmemorize.report._packed_files import (
    LeftOut,
    Packing,
    images_left_out,
    packed_reference,
    reference_name,
    references_left_out,
)
from unmemorize.report._page import REPORT
from unmemorize.report._provenance import output_hashes
from unmemorize.report._redaction import shown_after
from unmemorize.report._regions import region_file
from unmemorize.report._spot_check import SPOT_CHECK
from unmemorize.report._statement import STATEMENT
from unmemorize.runs import (
    MANIFEST,
    MODEL_FILES,
    Run,
    StoredImage,
    kinds_in,
    stream_prompts,
)

_PROMPTS = "prompts.jsonl"
_JSON = (MANIFEST, MITIGATION, EDIT, MODEL_FILES, SPOT_CHECK, STATEMENT)
_OUTPUT = "the edited model is kept apart"


def pack_mitigation(run: Run, *, redact: bool) -> Packing:
    """Collect what goes into the pack of a mitigation, whose report is written.

    Args:
        run: the mitigation.
        redact: whether training images are private, see `unmemorize.report._redaction`.

    Raises:
        RunError: a record is damaged.
        EvidenceError: a training image has changed since.
    """
    evidence = read_evidence(run)
    left_out = dict(_left_out(evidence, redact))
    return Packing(dict(_files(evidence, left_out)), {_PROMPTS: _prompts(evidence)}, left_out)


def _prompts(evidence: Evidence) -> bytes:
    """Return the prompt list with the training images in the pack and without other paths."""
    rows = []
    for prompt, images in zip(stream_prompts(evidence.run), evidence.references, strict=True):
        row = {**to_json(prompt), "images": [to_json(packed_reference(image)) for image in images]}
        rows.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(rows).encode()


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
    private = _private(evidence) if redact else set()
    yield from images_left_out(folder, _images(evidence), private)
    for name, digest in output_hashes(evidence.run).items():
        if name not in _JSON:
            yield name, LeftOut(digest, _OUTPUT)
    yield from references_left_out(_references(evidence), folder, redact=redact)


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
    return names | set(_of_memorized(evidence))


def _of_memorized(evidence: Evidence) -> Iterator[str]:
    """Name the images of ordinary captions that are memorized prompts, too."""
    run, memorized = evidence.run, {outcome.prompt for outcome in evidence.confirmed}
    for kind in kinds_in(run.folder):
        if kind.startswith("ordinary-"):
            for _, record in run.stream(kind):
                if record["caption"] in memorized:
                    yield record["file"]
