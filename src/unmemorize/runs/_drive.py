"""Work on many items in a run folder: what is finished is not done again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmemorize._errors import RunError, UnfinishedError
from unmemorize.engines import Execution, Failed, Finished, Outcome, Task, Unit, units_of
from unmemorize.pipelines import Model, refuse_switched_off
from unmemorize.runs._records import line_of
from unmemorize.runs._run import Run

_POLL = 5.0
"""Seconds between two looks at what other shards have done."""


@dataclass(frozen=True)
class Tally:
    """How far a task has come.

    Args:
        run: the run that holds the records.
        kind: the kind of records.
        done: how many of them are finished, now or before.
        failed: the errors of items that failed this time, by index.
        total: how many items the task has, including those of other shards.
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
    indices: Sequence[int] | None = None,
) -> Tally:
    """Work on all items of a run that are not finished yet.

    An item that fails is on record with its error, does not stop the others, and is tried again by
    the next call. A unit of which any item is missing is worked on as a whole, because results may
    depend by rounding on what is computed together; finished items keep their record.

    Args:
        run: the run that gets the records, under the task's kind.
        model: the model to work with.
        task: what to do.
        items: all items with their index, in rising order. A stream is read only as fast as it is
            worked on; what it leaves out of ``indices`` must be finished.
        total: one more than the highest index.
        execution: who does it and which shard. The records of a shard go to a file of its own, and
            progress counts the items of all shards.
        indices: those that the call is about. By default those of a list, or all of a stream.

    Raises:
        RunError: the folder cannot be written, another process writes there, or no worker is able
            to work.
        ModelError: neurons are switched off in the pipeline.
    """
    refuse_switched_off(model)
    execution = execution or Execution()
    shard = execution.shard
    if indices is None:  # a run may hold further items, which another call was about
        indices = [index for index, _ in items] if isinstance(items, Sequence) else range(total)
    item_count = len(indices)
    with run.writer(task.kind, str(shard) if shard else "") as writer:
        # The records are read under the lock: no other process can finish these items any more.
        is_finished = run.done(task.kind, total)
        done = sum(is_finished[index] for index in indices)
        failed: dict[int, str] = {}
        execution.progress(done, item_count)
        units = _unfinished(units_of(items, task.size), is_finished, execution)
        for unit, outcomes in execution.engine.outcomes(model, task, units):
            new = {
                index: _recordable(outcome)
                for index, outcome in zip(unit.indices, outcomes, strict=True)
                if not is_finished[index]
            }
            writer.append({index: _record(run, outcome) for index, outcome in new.items()})
            for index, outcome in new.items():
                if isinstance(outcome, Failed):
                    failed[index] = outcome.error
                else:
                    is_finished[index] = 1
                    done += 1
            execution.progress(done, item_count)
    return Tally(run, task.kind, done, failed, item_count)


def _unfinished(
    units: Iterator[Unit], is_finished: bytearray, execution: Execution
) -> Iterator[Unit]:
    """Yield the units of the shard of which any item is missing."""
    for unit in units:
        in_shard = execution.shard is None or unit.number in execution.shard
        if in_shard and not all(is_finished[index] for index in unit.indices):
            yield unit


def _recordable(outcome: Outcome) -> Outcome:
    """Return a failure in place of a result that no record can hold, such as NaN."""
    if isinstance(outcome, Finished):
        try:
            line_of(0, 0.0, outcome.record)
        except ValueError as problem:
            return Failed(f"its result cannot be put on record ({problem})")
    return outcome


def _record(run: Run, outcome: Outcome) -> dict[str, Any]:
    """Write the files of an outcome and return what goes on record."""
    if isinstance(outcome, Failed):
        return {"error": outcome.error}
    for name, content in outcome.files.items():
        run.write(name, content)
    record: dict[str, Any] = outcome.record
    return record


def drive_to_end(
    run: Run,
    model: Model,
    task: Task,
    items: Iterable[tuple[int, Any]],
    indices: Sequence[int],
    total: int,
    execution: Execution,
    title: str,
) -> None:
    """Do the same as `drive` for a stage on which others rest, and wait for other shards.

    Args:
        run, model, task, items, total: as in `drive`.
        indices: those of all items.
        execution: as in `drive`. Its patience tells how long other shards are waited for.
        title: of the stage, for errors.

    Raises:
        RunError: an item fails, here or in another shard.
        UnfinishedError: other shards have not done their part, and patience is at an end.
    """
    tally = drive(run, model, task, items, total, execution, indices)
    _refuse_failures(tally.failed, run, title)
    if execution.shard is None:
        return
    left, since = -1, 0.0
    while missing := _missing(run, task.kind, indices, total):
        # another shard may just try again what failed before this one began
        recent = run.failures(task.kind, since=run.opened)
        _refuse_failures({index: recent[index] for index in indices if index in recent}, run, title)
        if missing != left:
            left, since = missing, time.monotonic()
            execution.progress(len(indices) - missing, len(indices))
        if time.monotonic() - since >= execution.patience:
            raise UnfinishedError(
                f"{title}: {missing} of {len(indices)} are left to other shards. Repeat the "
                "command while these work, or when they are done."
            )
        time.sleep(_POLL)


def _refuse_failures(failed: Mapping[int, str], run: Run, title: str) -> None:
    """Raise the error of the first item that failed, if any did."""
    for index, error in failed.items():
        raise RunError(
            f"{title}: number {index} fails ({error.rstrip('.')}). What is finished stays in "
            f"{run.folder}; the same command tries again."
        )


def _missing(run: Run, kind: str, indices: Sequence[int], total: int) -> int:
    is_finished = run.done(kind, total)
    return sum(not is_finished[index] for index in indices)
