"""What one worker does: load the model again, prepare a task, and work on its units."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from unmemorize._errors import ModelError, RunError, UnmemorizeError
from unmemorize.engines._pool import Answer, Done, Ready, Unable
from unmemorize.engines._units import Task, Unit, UnitFunction, attempt_each
from unmemorize.pipelines import Loading, Model


@dataclass(frozen=True)
class Assignment:
    """What a worker is told when it starts.

    Args:
        loading: how to load the model.
        fingerprint: which fingerprint the loaded model must have.
        threads: how many threads torch may use.
    """

    loading: Loading
    fingerprint: str
    threads: int

    @classmethod
    def of(cls, model: Model, workers_per_machine: int) -> Assignment:
        """Make the assignment of workers that share a machine's CPU cores.

        Raises:
            ModelError: the model was not loaded by `Model.load`, so others cannot load the same.
        """
        if model.loading is None:
            raise ModelError(
                f"{model.name}: other processes cannot load this pipeline again. Load it with "
                "unmemorize.Model.load(MODEL), or work in this process."
            )
        cores = max(1, (os.cpu_count() or 1) // workers_per_machine)
        threads = min(torch.get_num_threads(), cores)
        return cls(model.loading, model.fingerprint, threads)


class Worker:
    """A model in a worker's process, and one task after the other."""

    def __init__(self, assignment: Assignment, number: int) -> None:
        self._problem = ""
        self._work: UnitFunction | None = None
        self._away = ExitStack()
        try:
            torch.set_num_threads(assignment.threads)
            self._model = Model.from_loading(assignment.loading.for_worker(number))
            if self._model.fingerprint != assignment.fingerprint:
                raise RunError(
                    f"{self._model.name}: a worker loads another model, because changes to a live "
                    "pipeline stay in its process. Save the changed model and load it from there."
                )
        except UnmemorizeError as problem:
            self._problem = str(problem)

    def prepare(self, task: Task) -> Answer:
        """Prepare a task, whose units follow."""
        if self._problem:
            return Unable(self._problem)
        self._away.close()
        try:
            self._work = task.prepare(self._model)
        except UnmemorizeError as problem:
            return Unable(str(problem))
        return Ready()

    def work(self, unit: Unit) -> Answer:
        """Work on a unit of the task."""
        assert self._work is not None  # a unit follows its task
        outcomes = attempt_each(self._work, unit.items)
        return Done(outcomes)

    def rest(self) -> Answer:
        """Forget the task, and leave the GPU until the next one."""
        self._work = None
        self._away.enter_context(off_the_gpu(self._model))
        return Ready()


@contextmanager
def off_the_gpu(model: Model) -> Iterator[None]:
    """Leave the GPU to others while the context lasts."""
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
