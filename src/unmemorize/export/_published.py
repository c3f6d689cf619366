"""The published files of Finding NeMo: activation statistics (.pt) and results (.csv), read into ours and written from ours.

They hold one list per value layer, the seven of Stable Diffusion v1 that the paper searches, in the order in which the denoiser runs them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from unmemorize._errors import PromptError, RunError, StatisticsError
from unmemorize._files import atomic_write, read_bytes
from unmemorize._prompts import Prompt
from unmemorize.localization import Localization, LocalizationRun, read_localizations
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model, select_value_layers
from unmemorize.runs import Inputs, Run, run_prompts, start_run
from unmemorize.statistics import Statistics

WIDTHS = {
    **{
        f"down_blocks.{stage}.attentions.{number}.transformer_blocks.0.attn2.to_v": width
        for stage, width in enumerate((320, 640, 1280))
        for number in (0, 1)
    },
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_v": 1280,
}
"""The searched value layers of Stable Diffusion v1 and how many neurons each has."""

COLUMNS = ("Caption", "URL", "Initial Neurons", "Initial SSIM", "Refined Neurons", "Refined SSIM")
_LARGEST = 64 * 1024**2


@dataclass(frozen=True, kw_only=True)
class ImportedRun:
    """What determines imported localizations: the published file.

    Args:
        file_sha256: of the file.
        searched: the value layers that its lists stand for, in their order.
    """

    kind: ClassVar[str] = "imported"

    file_sha256: str
    searched: tuple[str, ...]


def read_statistics(
    path: str | Path, model: Model | None = None, *, count: int = 50_000
) -> Statistics:
    """Published activation statistics: a pickled pair (means, standard deviations), each a list of one tensor per layer.

    Only tensors are unpickled, no code.

    Args:
        path: the ``.pt`` file.
        model: the model they were computed on; its fingerprint goes into the statistics. Without it the layers of Stable Diffusion v1 are
            assumed, and the statistics are taken for any model with such layers, as the file names no weights.
        count: over how many prompts they were computed, which the file does not say.

    Raises:
        StatisticsError: the file is missing, too large, holds something else, or does not fit the layers.
    """
    path = Path(path)
    data = read_bytes(path, StatisticsError, "published file", _LARGEST)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        IndexError,
        TypeError,
    ) as problem:
        reason = str(problem).strip().split("\n")[0]
        raise StatisticsError(
            f"{path}: not a file of tensors ({reason}). Download it again."
        ) from problem
    widths = _widths(model)
    if not (
        isinstance(content, (tuple, list))
        and len(content) == 2
        and all(_fits(part, widths) for part in content)
    ):
        raise StatisticsError(
            f"{path}: not a pair of means and standard deviations with {len(widths)} one-dimensional tensors of "
            f"{', '.join(map(str, widths.values()))} finite numbers. Give the model that they belong to, with --model."
        )
    mean, std = (
        {layer: tensor.double() for layer, tensor in zip(widths, part, strict=True)}
        for part in content
    )
    if any(bool((tensor < 0).any()) for tensor in std.values()):
        raise StatisticsError(
            f"{path}: a standard deviation is negative. The file is damaged; download it again."
        )
    made_on = hashlib.sha256(
        data
    ).hexdigest()  # the prompts are unknown, but those of another file are others
    return Statistics(
        mean=mean,
        std=std,
        count=count,
        fingerprint=model.fingerprint if model else "",
        prompts=made_on,
    )


def import_results(
    path: str | Path,
    folder: str | Path,
    model: Model | None = None,
    *,
    prompts: Sequence[Prompt] = (),
) -> Run:
    """A published result file as a run folder, from which images, metrics and reports can be made.

    Args:
        path: the ``.csv`` file; separated by ``;``, neurons as text such as ``[[221], [], [], [124], [697], [], []]``.
        folder: of the run.
        model: the model they were found in; without it, that of `read_statistics`.
        prompts: where the kinds (VM, TM) and training images of the captions are taken from.

    Returns:
        The run. Its records say nothing of what the file does not: scores of detection, theta, k, work and time.

    Raises:
        PromptError: the file is missing, too large, or malformed.
        RunError: the folder holds another run.
    """
    path = Path(path)
    data = read_bytes(path, PromptError, "published file", _LARGEST)
    widths = _widths(model)
    known = {prompt.text: prompt for prompt in prompts}
    imported = [
        _row(row, widths, f"{path}, row {number}")
        for number, row in enumerate(_rows(path, data), 1)
    ]
    asked = [replace(known.get(text, Prompt(text)), url=url or None) for text, url, _ in imported]
    settings = ImportedRun(file_sha256=hashlib.sha256(data).hexdigest(), searched=tuple(widths))
    run = start_run(
        folder,
        asked,
        settings,
        Inputs(fingerprint=model.fingerprint if model else ""),
        model=model.name if model else "Stable Diffusion v1 (as in the published files)",
    )
    done = run.records("localizations")
    for index, (prompt, (_, _, found)) in enumerate(zip(asked, imported, strict=True)):
        if index not in done:
            run.append("localizations", index, replace(found, group=prompt.group).to_json())
    return run


def export_results(run: Run, path: str | Path) -> int:
    """Write the localizations of a run as a published result file; returns the number of rows.

    Prompts that are not memorized get empty lists and no scores.

    Raises:
        RunError: nothing is localized, or the run does not say which layers were searched.
    """
    kinds: tuple[type[ImportedRun | LocalizationRun], ...] = (ImportedRun, LocalizationRun)
    settings = [run.settings(kind) for kind in kinds if kind.kind == run.manifest.kind]
    if not settings:
        raise RunError(
            f"{run.folder}: a run of kind {run.manifest.kind}, which localizes nothing. "
            "Name the folder of unmemorize localize."
        )
    layers = settings[0].searched
    asked, found = run_prompts(run), read_localizations(run)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";", lineterminator="\n")
    writer.writerow(COLUMNS)
    for index, record in found.items():
        scores = ["" if score is None else score for score in (record.initial_score, record.score)]
        lists = [
            json.dumps([list(neurons.layers.get(layer, ())) for layer in layers])
            for neurons in (record.initial, record.neurons)
        ]
        writer.writerow(
            (record.prompt, asked[index].url or "", lists[0], scores[0], lists[1], scores[1])
        )
    atomic_write(Path(path), text.getvalue(), RunError)
    return len(found)


def _widths(model: Model | None) -> dict[str, int]:
    if model is None:
        return WIDTHS
    return {layer: model.widths[layer] for layer in select_value_layers(model.value_layers)}


def _fits(part: object, widths: dict[str, int]) -> bool:
    return (
        isinstance(part, (tuple, list))
        and len(part) == len(widths)
        and all(
            isinstance(tensor, Tensor)
            and tensor.is_floating_point()
            and tensor.shape == (width,)
            and bool(torch.isfinite(tensor).all())
            for tensor, width in zip(part, widths.values(), strict=True)
        )
    )


def _rows(path: Path, data: bytes) -> list[dict[str, Any]]:
    try:
        reader = csv.DictReader(
            io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=";", strict=True
        )
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as problem:
        raise PromptError(
            f"{path}: not a CSV file separated by ; ({problem}). Download it again."
        ) from problem
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing or not rows:
        raise PromptError(
            f"{path}: not a published result file: {f'no column {missing[0]!r}' if missing else 'no rows'}."
        )
    return rows


def _row(row: dict[str, Any], widths: dict[str, int], where: str) -> tuple[str, str, Localization]:
    if None in row or None in row.values():
        raise PromptError(
            f"{where}: more or fewer than {len(COLUMNS)} fields. Quote captions that hold ; or quotation marks."
        )
    initial, refined = (
        _neurons(row[column], widths, f"{where}, {column}")
        for column in ("Initial Neurons", "Refined Neurons")
    )
    initial_score, score = (
        _score(row[column], f"{where}, {column}") for column in ("Initial SSIM", "Refined SSIM")
    )
    found = Localization(
        prompt=row["Caption"],
        group="",
        detection=None,
        initial=initial,
        neurons=refined,
        initial_score=initial_score,
        score=score,
        theta_exhausted=None,
        criterion="unblocked",
        protocol="published",
        kernel=11,
        evaluations=None,
        work=None,
        seconds=None,
    )
    return row["Caption"], row["URL"], found


def _neurons(text: str, widths: dict[str, int], where: str) -> Neurons:
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
            f"{where}: {text[:60]!r} is not a list of {len(widths)} lists of neurons that these layers have."
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
        raise PromptError(f"{where}: {text!r} is not a similarity.")
    return value
