"""Several workers that take units from one queue, and what happens when a worker is lost."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from unmemorize._errors import RunError
from unmemorize.engines._units import Failed, Outcome, Unit

log = logging.getLogger(__name__)

_ATTEMPTS = 3
"""How often a unit is tried when its workers are lost. The unit itself may be what kills them."""
_LOSSES_IN_A_ROW = 10
"""How many workers may be lost without any unit done. More point to the machine, not to a unit."""


@dataclass(frozen=True)
class Ready:
    """A worker has prepared the task and waits for its first unit."""


@dataclass(frozen=True)
class Done:
    """A worker has worked on its unit and waits for the next one.

    Args:
        outcomes: one for each item of the unit.
    """

    outcomes: list[Outcome]


@dataclass(frozen=True)
class Unable:
    """A worker cannot work at all, and neither could another one in its place.

    Args:
        reason: what is wrong and what to do about it.
    """

    reason: str


@dataclass(frozen=True)
class Lost:
    """A worker has ended without an answer.

    Args:
        cause: why, as far as it is known.
    """

    cause: str = ""


Answer = Ready | Done | Unable
"""What a worker itself sends."""


class WorkerPool(Protocol):
    """Numbered workers, each of which has at most one unit at a time."""

    def start(self, worker: int) -> None:
        """Start a worker, in place of the lost one of this number if there was one.

        One that rests goes on. Its first answer is `Ready` or `Unable`.
        """
        ...

    def give(self, worker: int, unit: Unit) -> None:
        """Let a worker that is ready or done work on a unit. Its answer is `Done`."""
        ...

    def next_event(self) -> tuple[int, Answer | Lost]:
        """Wait until a worker answers or is lost, and return its number and what happened."""
        ...

    def rest(self) -> None:
        """Let workers that are ready or done wait for another task, or stop; stop all others."""
        ...

    def close(self) -> None:
        """Stop all workers at once, also those in the middle of a unit."""
        ...


def work_through(
    pool: WorkerPool, count: int, units: Iterator[Unit]
) -> Iterator[tuple[Unit, list[Outcome]]]:
    """Yield each unit with its outcomes, as the workers of a pool find them.

    A lost worker is replaced and its unit tried again. A worker gets its first unit when it is
    ready; one that cannot start, such as a Ray actor without a free machine, delays nothing. When
    all units are done, the pool rests. It is closed when the caller stops early or work fails.

    Args:
        pool: the workers, not started yet.
        count: how many to start. None is started when there is no unit.
        units: read lazily, at most one more than there are free workers.

    Raises:
        RunError: a worker is unable to work, or workers are lost one after the other.
    """
    queue = _Queue(units)
    losses_in_a_row = 0
    try:
        for worker in range(0 if queue.is_finished else count):
            pool.start(worker)
        while not queue.is_finished:
            worker, event = pool.next_event()
            result: tuple[Unit, list[Outcome]] | None = None
            match event:
                case Unable(reason):
                    raise RunError(reason)
                case Ready():
                    queue.add_idle(worker)
                case Done(outcomes):
                    losses_in_a_row = 0
                    result = queue.finish(worker), outcomes
                case Lost(cause):
                    losses_in_a_row += 1
                    if losses_in_a_row == _LOSSES_IN_A_ROW:
                        raise _too_many_losses(cause)
                    result = queue.lose(worker)
                    if not queue.is_finished:
                        log.warning("worker %d is lost and replaced", worker)
                        pool.start(worker)
            # Units are handed out before the result is, because the caller may take its time.
            for idle_worker, unit in queue.assign():
                pool.give(idle_worker, unit)
            if result is not None:
                yield result
        pool.rest()
    except BaseException:
        pool.close()
        raise


class _Queue:
    """Who works on what.

    A unit is *waiting* (not read yet, or returned by a lost worker) until it is assigned. Then it
    is *busy* with exactly one worker, which finishes it or is lost with it. A lost unit waits
    again, before all new ones, until it was tried `_ATTEMPTS` times; then its items have failed.
    Each unit therefore leaves the queue exactly once.

    A worker is *idle* from its first answer until it is assigned a unit, and again afterwards. A
    lost worker is neither idle nor busy until its replacement answers.
    """

    def __init__(self, units: Iterator[Unit]) -> None:
        self._units = units
        self._next_new = next(units, None)  # read ahead, to know whether any unit is left
        self._returned: deque[Unit] = deque()
        self._idle: list[int] = []
        self._busy: dict[int, Unit] = {}
        self._attempts: Counter[int] = Counter()

    @property
    def is_finished(self) -> bool:
        """Whether no unit is waiting or busy."""
        return self._next_new is None and not self._returned and not self._busy

    def add_idle(self, worker: int) -> None:
        """Note that a worker waits for its first unit."""
        self._idle.append(worker)

    def assign(self) -> Iterator[tuple[int, Unit]]:
        """Assign waiting units until no worker is idle or no unit is waiting."""
        while self._idle and (unit := self._take_waiting()) is not None:
            worker = self._idle.pop()
            self._busy[worker] = unit
            self._attempts[unit.number] += 1
            yield worker, unit

    def finish(self, worker: int) -> Unit:
        """Return the unit that a worker has finished; the worker is idle now."""
        unit = self._busy.pop(worker)
        del self._attempts[unit.number]
        self._idle.append(worker)
        return unit

    def lose(self, worker: int) -> tuple[Unit, list[Outcome]] | None:
        """Take back the unit of a lost worker, if it had one.

        Returns:
            The unit with failures as its outcomes, if it will not be tried again.
        """
        if worker in self._idle:
            self._idle.remove(worker)
        unit = self._busy.pop(worker, None)
        if unit is None:
            return None
        if self._attempts[unit.number] < _ATTEMPTS:
            self._returned.append(unit)
            return None
        del self._attempts[unit.number]
        failure = Failed(f"the worker was lost {_ATTEMPTS} times")
        return unit, [failure] * len(unit.items)

    def _take_waiting(self) -> Unit | None:
        if self._returned:
            return self._returned.popleft()
        unit = self._next_new
        if unit is not None:
            self._next_new = next(self._units, None)
        return unit


def _too_many_losses(cause: str) -> RunError:
    reason = f" ({cause})" if cause else ""
    return RunError(
        f"{_LOSSES_IN_A_ROW} workers were lost one after the other{reason}. Is there enough memory "
        "for all of them? Use fewer --workers."
    )
