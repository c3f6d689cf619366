"""Activation statistics of a model over many prompts, as a run that can be resumed.

RUN/batches.jsonl               a record for each measured batch of prompts
RUN/sums/000003.safetensors     mean and squared differences of batch 3, see `StatisticsAccumulator`
RUN/raw/000003.safetensors      its activations, layer -> (prompts, features), if they are kept
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
from unmemorize._files import safetensors_bytes, whole_folder
from unmemorize._paths import exists
from unmemorize._prompts import Prompt, iter_ordinary
from unmemorize.engines import Execution, Failed, Finished, Outcome, UnitFunction, attempt_each
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
_RAW = "raw"


@dataclass(frozen=True, kw_only=True)
class StatisticsRun:
    """What determines activation statistics, besides the model and the prompts.

    Args:
        batch: prompts per pass of the text encoder.
        raw: whether the activations of single prompts are kept.
    """

    kind: ClassVar[str] = "statistics"

    batch: int
    raw: bool = False


@dataclass(frozen=True)
class Batch:
    """Consecutive prompts of a run that are measured together.

    Args:
        number: its place among the batches, from 0.
        texts: the prompts.
    """

    number: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class StatisticsTask:
    """The activations of batches as a `Task`."""

    raw: bool
    kind: str = _BATCHES
    size: int = 1

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""
        _ = model.value_input  # raises here if no prompt can be measured with this model

        def work(batches: Sequence[Batch]) -> list[Outcome]:
            return [_measure(model, batch, self.raw) for batch in batches]

        return work


def _measure(model: Model, batch: Batch, raw: bool) -> Outcome:
    """Measure a batch, in halves where it fails as a whole, for example because memory is short."""
    outcomes = attempt_each(lambda texts: _rows(model, texts), batch.texts)
    rows: list[dict[str, Tensor]] = []
    errors: list[str] = []
    for text, outcome in zip(batch.texts, outcomes, strict=True):
        if isinstance(outcome, Failed):
            errors.append(f"{text[:60]!r} ({outcome.error.rstrip('.')})")
        else:
            rows.append(outcome)
    if errors:
        return Failed(", ".join(errors))
    activation = {layer: torch.stack([row[layer] for row in rows]) for layer in rows[0]}
    sums = StatisticsAccumulator()
    sums.update(activation, batch.texts)
    files = {_file_of_batch("sums", batch.number): sums.to_bytes(model.fingerprint)}
    if raw:
        files[_file_of_batch(_RAW, batch.number)] = safetensors_bytes(activation)
    return Finished({"prompts": len(rows)}, files)


def _rows(model: Model, texts: Sequence[str]) -> list[dict[str, Tensor]]:
    """Measure some prompts together: for each prompt, layer -> (features,)."""
    measured = activations(model, model.encode(texts))
    activation = {layer: value.cpu() for layer, value in measured.items()}
    return [{layer: value[row] for layer, value in activation.items()} for row in range(len(texts))]


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
        prompts: at least two unmemorized prompts. A stream such as `iter_prompts` returns may be
            larger than memory.
        batch: prompts per pass of the text encoder. It changes the result by rounding only.
        raw: a new folder for the activations of single prompts: one safetensors file for each
            batch, in the order of the prompts, with a tensor (prompts, features) for each layer.
        folder: a run folder in which an interrupted computation is resumed. It stays; without one
            a temporary folder is used.
        execution: who does the work. Progress counts batches.

    Raises:
        StatisticsError: there are fewer than two prompts, a prompt fails, the batch is below 1, the
            folder for raw activations exists, or a shard was asked for.
        PromptError: ``prompts`` is a single text, or not prompts at all.
        RunError: the run folder holds another run or cannot be written.

    Examples:
        >>> model = Model.load("testbed")
        >>> compute_statistics(model, ["a red cat", "a blue dog", "a tall house"]).count
        3
    """
    model = Model.of(pipe)
    if batch < 1:
        raise StatisticsError(f"batch={batch}: at least 1 is needed. 64 is usual.")
    if raw is not None and exists(Path(raw)):
        raise StatisticsError(f"{raw}: exists already. Name a new folder for the activations.")
    if execution is not None and execution.shard is not None:
        raise StatisticsError(
            f"shard {execution.shard}: statistics need all batches of a run. Give each program its "
            "own prompts, and join the results by Statistics.merge."
        )
    settings = StatisticsRun(batch=batch, raw=raw is not None)
    with given_or_temporary(folder) as run_folder:
        run = open_run(
            run_folder,
            model,
            iter_ordinary(prompts),
            settings,
            way_out=f"delete {run_folder} to start again",
        )
        statistics = _statistics_in(run, model, settings, execution)
        if raw is not None:
            with whole_folder(Path(raw), StatisticsError) as partial:
                shutil.copytree(run.folder / _RAW, partial, dirs_exist_ok=True)
    return statistics


def _statistics_in(
    run: Run, model: Model, settings: StatisticsRun, execution: Execution | None
) -> Statistics:
    """Measure the batches that are missing in a run, and sum up all of them in their order."""
    total = -(-prompt_count(run) // settings.batch)
    batches = enumerate(_batches(run, settings.batch))
    tally = drive(run, model, StatisticsTask(settings.raw), batches, total, execution)
    if tally.failed:
        raise StatisticsError(
            f"prompts fail in {len(tally.failed)} of {total} batches: "
            f"{', '.join(tally.failed.values())}. Leave these prompts out, or repeat the command "
            "to try them again."
        )
    sums = StatisticsAccumulator()
    for number, _ in run.stream(_BATCHES):
        sums.add_file(run.folder / _file_of_batch("sums", number), model.fingerprint)
    return sums.compute(model.fingerprint)


def _batches(run: Run, size: int) -> Iterator[Batch]:
    texts = (prompt.text for prompt in stream_prompts(run))
    number = 0
    while batch_texts := tuple(islice(texts, size)):
        yield Batch(number, batch_texts)
        number += 1


def _file_of_batch(kind: str, number: int) -> str:
    return f"{kind}/{number:06d}.safetensors"
