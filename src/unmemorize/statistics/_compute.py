"""Activation statistics of a model over many prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from unmemorize._errors import StatisticsError
from unmemorize._files import atomic_write, safetensors_bytes
from unmemorize._progress import Progress, silent
from unmemorize._prompts import Prompt, as_prompt
from unmemorize.engines import (
    Engine,
    Failed,
    Finished,
    InProcess,
    Unit,
    Work,
    attempt,
    in_order,
    units_of,
)
from unmemorize.neurons import refuse_applied
from unmemorize.pipelines import Model
from unmemorize.statistics._activations import activations, source_of
from unmemorize.statistics._statistics import Statistics, StatisticsAccumulator, hash_prompts

_SAVED_EVERY = 30.0
"""Seconds."""


@dataclass(frozen=True)
class StatisticsTask:
    """The activations of prompts as a `Task`; its items are batches of texts."""

    kind: str = "activations"
    size: int = 1

    def prepare(self, pipe: DiffusionPipeline) -> Work:
        """See `Task`."""
        model = Model(pipe)
        refuse_applied(pipe)
        source_of(model)  # refuses what no prompt can help

        def answers(texts: Sequence[str]) -> dict[str, Any]:
            return {
                path: value.cpu().numpy()
                for path, value in activations(model, model.encode(texts)).items()
            }

        def work(batches: Sequence[Sequence[str]]) -> list[Finished]:
            return [Finished(_Batch.of(texts, answers)) for texts in batches]

        return work


@dataclass(frozen=True)
class _Batch:
    """What came of a batch of texts: the activations of those that did not fail, and the errors of the others."""

    texts: tuple[str, ...]
    activation: dict[str, Any]
    errors: dict[str, str]

    @classmethod
    def of(cls, texts: Sequence[str], answers: Callable[[Sequence[str]], dict[str, Any]]) -> _Batch:
        found = attempt(
            lambda items: [Finished(answers(items))] * len(items),
            Unit(0, tuple(range(len(texts))), tuple(texts)),
        )
        errors = {
            text: outcome.error
            for text, outcome in zip(texts, found, strict=True)
            if isinstance(outcome, Failed)
        }
        if not errors:
            return cls(tuple(texts), found[0].record if isinstance(found[0], Finished) else {}, {})
        good = tuple(text for text in texts if text not in errors)
        return cls(good, answers(good) if good else {}, errors)


def compute_statistics(
    pipe: DiffusionPipeline,
    prompts: Iterable[str | Prompt],
    *,
    batch: int = 64,
    raw: str | Path | None = None,
    partial: str | Path | None = None,
    engine: Engine | None = None,
    progress: Progress = silent,
) -> Statistics:
    """Activation statistics over prompts that are not memorized (paper, section 3.2: 50,000 LAION captions), in constant memory.

    Args:
        pipe: a loaded pipeline.
        prompts: unmemorized prompts, at least two; also a stream such as `iter_prompts`.
        batch: prompts per pass of the text encoder; it does not change the result beyond rounding.
        raw: a new folder for the single activations: one safetensors file per batch, ``00000000.safetensors`` by the number of its
            first prompt, with a tensor (prompts, features) for each layer.
        partial: a file for what is summed up so far, written now and then and at an interruption. When it is there, its prompts, which must
            be the first of these, are not looked at again. It stays; delete it when the statistics are saved.
        engine: who works; by default this process.
        progress: called after each batch.

    Raises:
        StatisticsError: fewer than two prompts, a prompt fails, the folder exists or cannot be written, or the partial file is that of
            other prompts or another model.
    """
    model = Model(pipe)
    total = len(prompts) if isinstance(prompts, Sized) else None
    texts = (as_prompt(prompt).text for prompt in prompts)
    resumed = partial is not None and Path(partial).exists()
    running = (
        _resume(Path(partial), model, texts)
        if partial is not None and resumed
        else StatisticsAccumulator()
    )
    if raw is not None and Path(raw).exists() and not resumed:
        raise StatisticsError(
            f"{raw}: exists. Name a new folder for the activations, one for each shard."
        )
    if running.count:
        progress(running.count, total)
    batches = iter(lambda: tuple(islice(texts, batch)), ())
    saved = time.monotonic()
    failed: dict[str, str] = {}
    try:
        for unit, (outcome,) in in_order(
            (engine or InProcess()).outcomes(
                pipe, StatisticsTask(), units_of(enumerate(batches), 1)
            )
        ):
            if isinstance(outcome, Failed):
                raise StatisticsError(f"prompts from {unit.items[0][0][:60]!r} on: {outcome.error}")
            part: _Batch = outcome.record
            failed |= part.errors
            if not part.texts:
                continue
            activation = {path: torch.from_numpy(value) for path, value in part.activation.items()}
            if raw is not None:
                atomic_write(
                    Path(raw) / f"{running.count:08d}.safetensors",
                    safetensors_bytes(activation),
                    StatisticsError,
                )
            running.update(activation, part.texts)
            progress(running.count, total)
            if partial is not None and time.monotonic() - saved > _SAVED_EVERY:
                running.save(partial, model.fingerprint)
                saved = time.monotonic()
        if failed:
            text, error = next(iter(failed.items()))
            raise StatisticsError(
                f"{len(failed)} prompts fail, such as {text[:60]!r} ({error.rstrip('.')}). Leave them out; "
                f"what was computed of the others is kept."
            )
    except BaseException:
        if partial is not None and running.count:
            running.save(partial, model.fingerprint)
        raise
    return running.compute(model.fingerprint)


def _resume(partial: Path, model: Model, texts: Iterator[str]) -> StatisticsAccumulator:
    running = StatisticsAccumulator.load(partial, model.fingerprint)
    if hash_prompts(islice(texts, running.count)) != running.prompts:
        raise StatisticsError(
            f"{partial}: it sums up other prompts than the first {running.count} of these. Delete it to begin anew."
        )
    return running
