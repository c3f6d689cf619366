"""Detection and localization of many prompts in a run folder: what is done already is not done again.

RUN/manifest.json, prompts.jsonl      what was asked
RUN/detections.jsonl                  step `detect_all`
RUN/localizations.jsonl               step `localize_all`
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from unmemorize._errors import RunError
from unmemorize._files import hash_texts, parse_json, read_bytes
from unmemorize._model import Model
from unmemorize._progress import Progress, silent
from unmemorize._prompts import Prompt
from unmemorize._statistics import Statistics
from unmemorize._threshold import Threshold
from unmemorize._value_layers import select_value_layers
from unmemorize.localization import Detection, Localization, LocalizationSettings, detect_prompts, localize_prompt
from unmemorize.runs._run import Run


def open_run(folder: str | Path, pipe: DiffusionPipeline, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> Run:
    """Start or go on with a run over these prompts; ``settings`` is all else that determines the results.

    Raises:
        RunError: the folder holds another run.
    """
    model = Model(pipe)
    return start_run(folder, prompts, {"model": model.name, "fingerprint": model.fingerprint, "dtype": str(model.dtype), **settings})


def start_run(folder: str | Path, prompts: Sequence[Prompt], config: Mapping[str, Any]) -> Run:
    """Start or go on with a run over these prompts; ``config`` names the model, too.

    Raises:
        RunError: the folder holds another run.
    """
    texts = [json.dumps(prompt_to_json(prompt), ensure_ascii=False) for prompt in prompts]
    run = Run.open(folder, {**config, "prompts": hash_texts(texts)})
    run.write("prompts.jsonl", "\n".join(texts) + "\n")
    return run


def run_prompts(run: Run) -> list[Prompt]:
    """The prompts of a run.

    Raises:
        RunError: their file is missing or damaged.
    """
    path = run.folder / "prompts.jsonl"
    text = read_bytes(path, RunError, "prompt list of the run").decode(errors="replace")
    rows = [parse_json(line, RunError, f"{path}, line {number}: damaged") for number, line in enumerate(text.split("\n")[:-1], 1)]
    try:
        return [Prompt(row["text"], row["kind"], row["url"], tuple(map(Path, row["images"])), row["group"]) for row in rows]
    except (KeyError, TypeError) as problem:
        raise RunError(f"{path}: damaged ({problem}). Repeat the command that made the run.") from problem


def localization_config(model: Model, settings: LocalizationSettings, statistics: Statistics, threshold: Threshold) -> dict[str, Any]:
    """What determines localizations beside the weights and the prompts, for `open_run`; ``searched`` are the layers in their order."""
    searched = list(select_value_layers(model.value_layers, settings.layers))
    limits = {"tau": threshold.tau, "tau_seeds": threshold.tau_seeds}
    made_on = {"threshold_prompts": threshold.prompts, "statistics_prompts": statistics.prompts}
    return {**asdict(settings), **limits, **made_on, "searched": searched}


def detect_all(
    run: Run,
    pipe: DiffusionPipeline,
    prompts: Sequence[Prompt],
    threshold: Threshold,
    *,
    cascade: bool = False,
    batch: int = 16,
    progress: Progress = silent,
) -> list[Detection]:
    """A `Detection` for each prompt; ``cascade`` as in `detect`, ``batch`` seeds per denoiser pass, across prompts."""
    model = Model(pipe)

    def some(indices: Sequence[int]) -> list[dict[str, Any]]:
        given = [prompts[index] for index in indices]
        return [found.to_json() for found in detect_prompts(model, given, threshold, threshold.settings, cascade=cascade, batch=batch)]

    records = each(
        run, "detections", range(len(prompts)), some, progress, at_once=max(1, batch // (2 if cascade else threshold.settings.seeds))
    )
    return [Detection.from_json(record) for record in records]


def detections_csv(prompts: Sequence[Prompt], detections: Sequence[Detection]) -> str:
    """Detections as a table, one line per prompt in its order, for spreadsheets."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("prompt", "kind", "group", "score", "mean", "tau", "memorized", "seeds_above_tau"))
    for prompt, found in zip(prompts, detections, strict=True):
        writer.writerow(
            (found.prompt, prompt.kind or "", found.group, found.score, found.mean, found.tau, int(found.memorized), len(found.kept))
        )
    return text.getvalue()


def localize_all(
    run: Run,
    pipe: DiffusionPipeline,
    prompts: Sequence[Prompt],
    *,
    statistics: Statistics,
    threshold: Threshold,
    settings: LocalizationSettings,
    progress: Progress = silent,
) -> list[Localization]:
    """A `Localization` for each prompt."""

    model = Model(pipe)

    def some(indices: Sequence[int]) -> list[dict[str, Any]]:
        return [localize_prompt(model, prompts[index], statistics, threshold, settings).to_json() for index in indices]

    return [Localization.from_json(record) for record in each(run, "localizations", range(len(prompts)), some, progress)]


def read_localizations(run: Run) -> dict[int, Localization]:
    """The finished localizations of a run, by index of the prompt.

    Raises:
        RunError: there are none.
    """
    found = {index: Localization.from_json(record) for index, record in sorted(run.records("localizations").items())}
    if not found:
        raise RunError(f"{run.folder}: nothing is localized there. Localize into a folder of its own: unmemorize localize -o FOLDER")
    return found


def each(
    run: Run,
    name: str,
    indices: Sequence[int],
    work: Callable[[Sequence[int]], list[dict[str, Any]]],
    progress: Progress,
    *,
    at_once: int = 1,
) -> list[dict[str, Any]]:
    """Do the units that are missing, ``at_once`` of them in one call, and return the records of all, in the order of ``indices``."""
    records = run.records(name)
    done = sum(index in records for index in indices)
    progress(done, len(indices))
    missing = [index for index in indices if index not in records]
    for start in range(0, len(missing), at_once):
        part = missing[start : start + at_once]
        for index, record in zip(part, work(part), strict=True):
            records[index] = record
            run.append(name, index, record)
        done += len(part)
        progress(done, len(indices))
    return [records[index] for index in indices]


def prompt_to_json(prompt: Prompt) -> dict[str, Any]:
    return {
        "text": prompt.text,
        "kind": prompt.kind,
        "url": prompt.url,
        "images": [str(path.absolute()) for path in prompt.images],
        "group": prompt.group,
    }
