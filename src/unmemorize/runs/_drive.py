"""A task over many items in a run folder: what is finished is not done again, and what fails does not stop the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from unmemorize.engines import Execution, Failed, Task, Unit, units_of
from unmemorize.pipelines import Model
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
    model: Model,
    task: Task,
    items: Iterable[tuple[int, Any]],
    total: int,
    execution: Execution | None = None,
) -> Tally:
    """Do what is missing in a run.

    Args:
        run: where the records go, under the task's kind.
        model: the model.
        task: what to do.
        items: all items by index, in rising order. A stream is pulled only as fast as it is worked
            on.
        total: one more than the highest index.
        execution: who does it and which part. The records of a shard go to a file of its own, and
            progress counts the items of all shards.

    Raises:
        RunError: the folder cannot be written, another process writes there, or no worker is able
            to work.
    """
    execution = execution or Execution()
    shard = execution.shard
    asked = total if not isinstance(items, Sequence) else len(items)
    failed: dict[int, str] = {}

    def missing() -> Iterator[Unit]:
        for unit in units_of(items, task.size):
            mine = shard is None or unit.number in shard
            if mine and not all(finished[index] for index in unit.indices):
                yield unit

    with run.writer(task.kind, str(shard) if shard else "") as writer:
        finished = run.done(task.kind, total)  # read under the lock, so nobody else writes now
        done = sum(finished)
        execution.progress(done, asked)
        for unit, outcomes in execution.engine.outcomes(model, task, missing()):
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
            execution.progress(done, asked)
    return Tally(run, task.kind, done, failed, asked)
