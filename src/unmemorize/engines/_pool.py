"""Several workers that pull units from one queue: who gets what, and what happens when a worker is lost."""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from unmemorize._errors import ModelError, RunError, UnmemorizeError
from unmemorize.engines._units import Failed, Outcome, Task, Unit, attempt
from unmemorize.pipelines import Loading, Model

log = logging.getLogger(__name__)

_ATTEMPTS = 3
"""How often a unit is tried whose worker is lost."""
_LOSSES = 10
"""How many workers may be lost one after the other without any unit done."""

Answer = list[Outcome] | str
"""What came of a unit, at first nothing: the worker is ready; or why the worker cannot work at all."""


class Crew(Protocol):
    """Workers by number, each with at most one unit at a time."""

    def start(self, number: int) -> None:
        """Start a worker, in place of the lost one of this number if there was one. It answers when it is ready."""
        ...

    def give(self, number: int, unit: Unit) -> None:
        """Let it work on a unit."""
        ...

    def next(self) -> tuple[int, Answer | None]:
        """Wait for an answer; None: the worker is lost."""
        ...

    def lost_by(self) -> str:
        """Why the last worker was lost, as far as that is known; empty if not."""
        ...

    def close(self) -> None:
        """Stop all workers at once."""
        ...


def work_through(
    crew: Crew, count: int, units: Iterator[Unit]
) -> Iterator[tuple[Unit, list[Outcome]]]:
    """What comes of each unit. A lost worker is replaced and its unit tried again, three times in all; the crew is closed at the end.

    Units are given to workers that are ready, so that one that cannot start, for want of a machine, holds up nothing.

    Raises:
        RunError: workers cannot work, or are lost one after the other.
    """
    first = next(units, None)
    if first is None:
        return
    again = deque([first])
    ready: list[int] = []
    busy: dict[int, Unit] = {}
    tried: Counter[int] = Counter()
    losses = 0
    try:
        for number in range(count):
            crew.start(number)
        while True:
            number, answer = crew.next()
            unit = busy.pop(number, None)
            if isinstance(answer, str):
                raise RunError(answer)
            if answer is None:
                losses += 1
                if losses >= _LOSSES:
                    why = f" ({crew.lost_by()})" if crew.lost_by() else ""
                    raise RunError(
                        f"{losses} workers were lost one after the other{why}. Is there memory for so many? Use fewer --workers."
                    )
                log.warning("worker %d is lost and replaced", number)
                crew.start(number)
                if unit is not None and tried[unit.number] < _ATTEMPTS:
                    again.append(unit)
                elif unit is not None:
                    answer = [Failed(f"the worker was lost {_ATTEMPTS} times")] * len(unit.items)
            else:
                ready.append(number)
                losses = 0 if unit else losses
            more = True
            while ready and more:  # before the answer is handed on, so that nobody waits for that
                following = again.popleft() if again else next(units, None)
                more = following is not None
                if following is not None:
                    tried[following.number] += 1
                    busy[ready[-1]] = following
                    crew.give(ready.pop(), following)
            if unit is not None and answer is not None:
                del tried[unit.number]
                yield unit, answer
            if not more and not busy:
                return
    finally:
        crew.close()


@dataclass(frozen=True)
class Duty:
    """What a worker is told when it starts.

    Args:
        loading: how to load the model.
        fingerprint: the model must have.
        task: what to do.
        threads: of torch.
    """

    loading: Loading
    fingerprint: str
    task: Task
    threads: int

    @classmethod
    def of(cls, model: Model, task: Task, workers: int) -> Duty:
        """The duty of this many workers on this machine.

        Raises:
            ModelError: the model was not loaded by `Model.load`, so others cannot load the same.
        """
        if model.loading is None:
            raise ModelError(
                "other processes cannot load this pipeline again. Load it with "
                "unmemorize.Model.load(MODEL), or work in this process."
            )
        threads = max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // workers))
        return cls(model.loading, model.fingerprint, task, threads)


@contextmanager
def aside(model: Model) -> Iterator[None]:
    """Leave the GPU to the workers while the context lasts."""
    device = model.pipe.device
    if device.type == "cpu":
        yield
        return
    model.pipe.to("cpu")
    torch.cuda.empty_cache()
    try:
        yield
    finally:
        model.pipe.to(device)


class Worker:
    """Works on units in a process of its own, with its own model."""

    def __init__(self, duty: Duty, number: int) -> None:
        self._problem = ""
        try:
            torch.set_num_threads(duty.threads)
            model = Model.from_loading(duty.loading.for_worker(number))
            if model.fingerprint != duty.fingerprint:
                raise RunError(
                    "a worker loads another model: changes to a live pipeline stay in its "
                    "process. Save the changed model and load it from there."
                )
            self._work = duty.task.prepare(model)
        except UnmemorizeError as problem:
            self._problem = str(problem)

    def ready(self) -> Answer:
        """The first answer."""
        return self._problem or []

    def __call__(self, unit: Unit) -> Answer:
        return self._problem or attempt(self._work, unit)
