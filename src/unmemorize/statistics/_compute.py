"""Activation statistics of a model over many prompts, as a run that can be resumed.

RUN/batches.jsonl               per batch of prompts how many were measured, and which failed
RUN/sums/000003.safetensors     per layer the mean and the squared differences of batch 3
RUN/raw/000003.safetensors      its single activations, where they were asked for
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._errors import StatisticsError
from unmemorize._files import safetensors_bytes
from unmemorize._prompts import Prompt, as_prompts
from unmemorize.engines import Execution, Failed, Finished, UnitFunction, attempt_each
from unmemorize.neurons import refuse_switched_off
from unmemorize.pipelines import Model
from unmemorize.runs import (
    Run,
    drive,
    given_or_temporary,
    open_run,
    prompt_count,
    stream_prompts,
)
from unmemorize.statistics._activations import activations
from unmemorize.statistics._statistics import Statistics, StatisticsAccumulator

_BATCHES = "batches"


@dataclass(frozen=True, kw_only=True)
class StatisticsRun:
    """What determines activation statistics, besides the model and the prompts.

    Args:
        batch: prompts per pass of the text encoder.
        raw: whether the single activations are kept.
    """

    kind: ClassVar[str] = "statistics"

    batch: int
    raw: bool = False


@dataclass(frozen=True)
class StatisticsTask:
    """The activations of prompts as a `Task`; its items are number and texts of a batch."""

    raw: bool
    kind: str = _BATCHES
    size: int = 1

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""
        refuse_switched_off(model)
        _ = model.value_input  # refuses a model that no prompt can help

        def work(items: Sequence[tuple[int, tuple[str, ...]]]) -> list[Finished]:
            return [_measure(model, number, texts, self.raw) for number, texts in items]

        return work


def _measure(model: Model, number: int, texts: Sequence[str], raw: bool) -> Finished:
    """Measure one batch. Prompts that fail are named, and the others are measured without them."""

    def each(some: Sequence[str]) -> list[dict[str, Tensor]]:
        activation = {
            path: value.cpu() for path, value in activations(model, model.encode(some)).items()
        }
        return [
            {path: value[row] for path, value in activation.items()} for row in range(len(some))
        ]

    outcomes = attempt_each(each, texts)
    failed = {
        text: outcome.error
        for text, outcome in zip(texts, outcomes, strict=True)
        if isinstance(outcome, Failed)
    }
    rows = [outcome for outcome in outcomes if not isinstance(outcome, Failed)]
    measured = [text for text in texts if text not in failed]
    if not rows:
        return Finished({"prompts": 0, "failed": failed})
    activation = {path: torch.stack([row[path] for row in rows]) for path in rows[0]}
    sums = StatisticsAccumulator()
    sums.update(activation, measured)
    files = {_sums_file(number): sums.to_bytes(model.fingerprint)}
    if raw:
        files[f"raw/{number:06d}.safetensors"] = safetensors_bytes(activation)
    return Finished({"prompts": len(rows), "failed": failed}, files)


def compute_statistics(
    pipe: DiffusionPipeline | Model,
    prompts: Iterable[str | Prompt],
    *,
    batch: int = 64,
    raw: str | Path | None = None,
    folder: str | Path | None = None,
    execution: Execution | None = None,
) -> Statistics:
    """Compute mean and standard deviation of every neuron's activation, in constant memory.

    Give ordinary prompts that are not memorized (paper, section 3.2: 50,000 LAION captions).

    Args:
        pipe: a loaded pipeline.
        prompts: at least two unmemorized prompts; may be a stream such as `iter_prompts`.
        batch: prompts per pass of the text encoder. It changes the result by rounding only.
        raw: a new folder for the single activations: one safetensors file per batch, with a tensor
            (prompts, features) for each layer.
        folder: a run folder in which an interrupted computation is resumed. It stays; without one
            a temporary folder is used.
        execution: who does the work.

    Raises:
        StatisticsError: fewer than two prompts, a prompt fails, or the folder for raw activations
            exists.
        PromptError: ``prompts`` is a single text.
        RunError: the run folder holds another run or cannot be written.
    """
    model = Model.of(pipe)
    if raw is not None and Path(raw).exists():
        raise StatisticsError(f"{raw}: exists. Name a new folder for the activations.")
    settings = StatisticsRun(batch=batch, raw=raw is not None)
    with given_or_temporary(folder) as place:
        run = open_run(place, model, as_prompts(prompts), settings)
        statistics = _statistics_in(run, model, settings, execution)
        if raw is not None:
            shutil.move(run.folder / "raw", raw)
    return statistics


def _statistics_in(
    run: Run, model: Model, settings: StatisticsRun, execution: Execution | None
) -> Statistics:
    batches = _batches(run, settings.batch)
    total = -(-prompt_count(run) // settings.batch)
    tally = drive(run, model, StatisticsTask(settings.raw), batches, total, execution)
    for error in tally.failed.values():
        raise StatisticsError(error)
    failed: dict[str, str] = {}
    sums = StatisticsAccumulator()
    for number, record in run.stream(_BATCHES):
        failed |= record["failed"]
        if record["prompts"]:
            sums.add_file(run.folder / _sums_file(number), model.fingerprint)
    if failed:
        text, error = next(iter(failed.items()))
        raise StatisticsError(
            f"{len(failed)} prompts fail, such as {text[:60]!r} ({error.rstrip('.')}). Leave them "
            "out."
        )
    return sums.compute(model.fingerprint)


def _batches(run: Run, size: int) -> Iterator[tuple[int, tuple[int, tuple[str, ...]]]]:
    texts = (prompt.text for prompt in stream_prompts(run))
    number = 0
    while batch := tuple(islice(texts, size)):
        yield number, (number, batch)
        number += 1


def _sums_file(number: int) -> str:
    return f"sums/{number:06d}.safetensors"
