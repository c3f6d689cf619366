"""A task over many items in a run folder: what is finished is not done again, and what fails does not stop the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline

from unmemorize._progress import Progress, silent
from unmemorize.engines import Engine, Failed, InProcess, Shard, Task, Unit, units_of
from unmemorize.runs._run import Run


@dataclass(frozen=True)
class Tally:
    """How far a task has come.

    Args:
        run: with its records.
        kind: of these.
        done: items that are finished, now or before.
        failed: items that failed this time, by index.
        total: items in all, those of other shards included.
    """

    run: Run
    kind: str
    done: int
    failed: dict[int, str]
    total: int

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.done == self.total


def drive(
    run: Run,
    pipe: DiffusionPipeline,
    task: Task,
    items: Iterable[tuple[int, Any]],
    total: int,
    *,
    engine: Engine | None = None,
    shard: Shard | None = None,
    progress: Progress = silent,
) -> Tally:
    """Do what is missing.

    Args:
        run: where the records go, under the task's kind.
        pipe: the model.
        task: what to do.
        items: all of them, by index in rising order; a stream is pulled only as fast as it is worked on.
        total: one more than the highest index there may be.
        engine: who does it; by default this process.
        shard: only this part; its records go to a file of its own.
        progress: called after each unit, of the items of all shards.

    Raises:
        RunError: the folder cannot be written or another process writes there, or nobody is able to work.
    """
    asked = total if not isinstance(items, Sequence) else len(items)
    failed: dict[int, str] = {}

    def missing() -> Iterator[Unit]:
        for unit in units_of(items, task.size):
            if (shard is None or unit.number in shard) and not all(
                finished[index] for index in unit.indices
            ):
                yield unit

    with run.writer(task.kind, str(shard) if shard else "") as writer:
        finished = run.done(task.kind, total)  # now that nobody else writes
        done = sum(finished)
        progress(done, asked)
        for unit, outcomes in (engine or InProcess()).outcomes(pipe, task, missing()):
            records: dict[int, dict[str, Any]] = {}
            for index, outcome in zip(unit.indices, outcomes, strict=True):
                if finished[index]:
                    continue
                if isinstance(outcome, Failed):
                    failed[index] = outcome.error
                    records[index] = {"error": outcome.error}
                    continue
                for name, content in outcome.files.items():
                    run.write(name, content)
                records[index] = outcome.record
                finished[index] = 1
                done += 1
            writer.append(records)
            progress(done, asked)
    return Tally(run, task.kind, done, failed, asked)
