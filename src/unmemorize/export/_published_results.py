"""The published result files of Finding NeMo (.csv): read as a run, and written from a run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from unmemorize._csv_files import CsvWriter
from unmemorize._errors import PromptError, RunError
from unmemorize._files import atomic_write, read_bytes
from unmemorize._prompts import Prompt
from unmemorize.export._published_layers import LARGEST_FILE, published_widths
from unmemorize.localization import LOCALIZATIONS, Localization, LocalizationRun, read_localizations
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model
from unmemorize.runs import Inputs, Run, run_prompts, start_run

COLUMNS = ("Caption", "URL", "Initial Neurons", "Initial SSIM", "Refined Neurons", "Refined SSIM")
_KERNEL = 11
"""Of MS-SSIM at 512 x 512, the size of all published results."""


@dataclass(frozen=True, kw_only=True)
class ImportedRun:
    """What determines imported localizations: the published file.

    Args:
        file_sha256: the hash of the file.
        searched: the value layers that its lists stand for, in their order.
    """

    kind: ClassVar[str] = "imported"

    file_sha256: str
    searched: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    """A row of a published result file.

    Args:
        prompt: the caption, and where the training image was.
        localization: with the caption as its prompt.
    """

    prompt: Prompt
    localization: Localization


def import_results(
    path: str | Path,
    folder: str | Path,
    model: Model | None = None,
    *,
    prompts: Sequence[Prompt] = (),
) -> Run:
    """Turn a published result file into a run folder, for images, metrics and reports.

    Args:
        path: the ``.csv`` file, separated by ``;``, with neurons as text such as
            ``[[221], [], [], [124], [697], [], []]``.
        folder: the folder of the run.
        model: the model the neurons were found in. Without it, see `read_statistics`.
        prompts: prompts with the kinds (VM, TM) and training images of the captions.

    Returns:
        The run. What the file does not say stays unknown in its records: scores of detection,
        theta, k, work and time.

    Raises:
        PromptError: the file is missing, too large, or malformed.
        RunError: the folder holds another run.
    """
    path = Path(path)
    data = read_bytes(path, PromptError, "published file", LARGEST_FILE)
    widths = published_widths(model)
    rows = [
        _parsed(fields, widths, f"{path}, row {number}")
        for number, fields in enumerate(_fields_of_rows(path, data), 1)
    ]
    described = {prompt.text: prompt for prompt in prompts}
    captions = [
        replace(described.get(row.prompt.text, row.prompt), url=row.prompt.url) for row in rows
    ]
    settings = ImportedRun(file_sha256=hashlib.sha256(data).hexdigest(), searched=tuple(widths))
    run = start_run(
        folder,
        captions,
        settings,
        Inputs(fingerprint=model.fingerprint if model else ""),
        model=model.name if model else "Stable Diffusion v1 (as in the published files)",
        way_out="read this file into another folder",
    )
    done = run.done(LOCALIZATIONS, len(captions))
    missing = {
        index: replace(row.localization, group=prompt.group).to_json()
        for index, (prompt, row) in enumerate(zip(captions, rows, strict=True))
        if not done[index]
    }
    if missing:
        with run.writer(LOCALIZATIONS) as writer:
            writer.append(missing)
    return run


def export_results(run: Run, path: str | Path) -> int:
    """Write the localizations of a run as a published result file.

    Prompts that are not memorized get empty lists and no scores.

    Returns:
        The number of rows.

    Raises:
        RunError: the run is of a kind that localizes nothing, or nothing is localized yet.
    """
    layers = _searched_layers(run)
    prompts, localizations = run_prompts(run), read_localizations(run)
    text = io.StringIO()
    writer = CsvWriter(text, delimiter=";")
    writer.row(*COLUMNS)
    for index, record in localizations.items():
        writer.row(
            record.prompt,
            prompts[index].url or "",
            _as_lists(record.initial, layers),
            _as_text(record.initial_score),
            _as_lists(record.neurons, layers),
            _as_text(record.score),
        )
    atomic_write(Path(path), text.getvalue(), RunError)
    return len(localizations)


def _searched_layers(run: Run) -> tuple[str, ...]:
    kinds: tuple[type[ImportedRun | LocalizationRun], ...] = (ImportedRun, LocalizationRun)
    for kind in kinds:
        if kind.kind == run.manifest.kind:
            return run.settings(kind).searched
    raise RunError(
        f"{run.folder}: a run of kind {run.manifest.kind}, which localizes nothing. "
        "Name the folder of unmemorize localize."
    )


def _as_lists(neurons: Neurons, layers: Sequence[str]) -> str:
    return json.dumps([list(neurons.layers.get(layer, ())) for layer in layers])


def _as_text(score: float | None) -> str:
    return "" if score is None else str(score)


def _fields_of_rows(path: Path, data: bytes) -> list[dict[str, Any]]:
    try:
        text = io.StringIO(data.decode("utf-8-sig"), newline="")
        reader = csv.DictReader(text, delimiter=";", strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as problem:
        raise PromptError(
            f"{path}: not a CSV file separated by ; ({problem}). Download it again."
        ) from problem
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing or not rows:
        problem_found = f"no column {missing[0]!r}" if missing else "no rows"
        raise PromptError(f"{path}: not a published result file: {problem_found}. Check the path.")
    return rows


def _parsed(fields: Mapping[Any, Any], widths: Mapping[str, int], where: str) -> _Row:
    if None in fields or None in fields.values():
        raise PromptError(
            f"{where}: more or fewer than {len(COLUMNS)} fields. "
            "Quote captions that hold ; or quotation marks."
        )
    try:
        prompt = Prompt(fields["Caption"], url=fields["URL"] or None)
    except PromptError as problem:
        raise PromptError(f"{where}: {problem}") from problem
    localization = Localization(
        prompt=prompt.text,
        group="",
        detection=None,
        initial=_neurons(fields["Initial Neurons"], widths, f"{where}, Initial Neurons"),
        neurons=_neurons(fields["Refined Neurons"], widths, f"{where}, Refined Neurons"),
        initial_score=_score(fields["Initial SSIM"], f"{where}, Initial SSIM"),
        score=_score(fields["Refined SSIM"], f"{where}, Refined SSIM"),
        theta_exhausted=None,
        criterion="unblocked",
        protocol="published",
        similarity="published",
        kernel=_KERNEL,
        evaluations=None,
        work=None,
        seconds=None,
    )
    return _Row(prompt, localization)


def _neurons(text: str, widths: Mapping[str, int], where: str) -> Neurons:
    try:
        lists = json.loads(text)
    except (ValueError, RecursionError):
        lists = None
    well_formed = (
        isinstance(lists, list)
        and len(lists) == len(widths)
        and all(
            isinstance(indices, list)
            and all(type(index) is int and 0 <= index < width for index in indices)
            for indices, width in zip(lists, widths.values(), strict=True)
        )
    )
    if not well_formed:
        raise PromptError(
            f"{where}: {text[:60]!r} is not a list of {len(widths)} lists of neurons that these "
            "layers have. Correct the row, or give the model with --model."
        )
    return Neurons(dict(zip(widths, lists, strict=True)))


def _score(text: str, where: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -1 <= value <= 1:
        raise PromptError(
            f"{where}: {text!r} is not a similarity. Write a number from -1 to 1, or nothing."
        )
    return value
