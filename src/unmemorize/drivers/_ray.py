"""Ray actors: one for each GPU of a cluster, pulling units from the driver, which writes what they send back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from diffusers import DiffusionPipeline

from unmemorize._errors import RunError
from unmemorize._logging import quiet_libraries
from unmemorize.drivers._crew import Answer, Duty, Worker, work_through
from unmemorize.drivers._task import Outcome, Task, Unit

log = logging.getLogger(__name__)


class RayActors:
    """Several Ray actors, each with its own model, on a local Ray or a cluster.

    The pipeline must come from `load_pipeline`, and what it was loaded from must be there on every node.

    Args:
        count: how many.
        gpus: of each; a fraction shares one. By default 1 where the cluster has any.
        address: of the cluster, such as "auto" or "ray://host:10001"; by default one is started on this machine, or the connected one used.
    """

    def __init__(self, count: int, *, gpus: float | None = None, address: str | None = None) -> None:
        if count < 1:
            raise RunError(f"{count} workers: at least 1 is needed.")
        self._count, self._gpus, self._address = count, gpus, address

    def outcomes(self, pipe: DiffusionPipeline, task: Task, units: Iterator[Unit]) -> Iterator[tuple[Unit, list[Outcome]]]:
        """See `Engine`."""
        try:
            import ray
        except ImportError as problem:
            raise RunError("the engine ray needs Ray. pip install 'unmemorize[ray]'") from problem
        ours = not ray.is_initialized()
        if ours:
            try:
                started = {"address": "local", "include_dashboard": False}  # without an address Ray takes any that runs here, of anybody
                there = {"address": self._address} if self._address else started
                ray.init(**there, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError, RuntimeError) as problem:
                raise RunError(f"Ray at {self._address}: cannot be reached ({problem}). Is it running there?") from problem
        try:
            gpus = self._gpus if self._gpus is not None else float(bool(ray.cluster_resources().get("GPU")))
            yield from work_through(_Actors(Duty.of(pipe, task, 1 if gpus else self._count), gpus), self._count, units)
        finally:
            if ours:
                ray.shutdown()


class _Actors:
    """A `Crew` of Ray actors."""

    def __init__(self, duty: Duty, gpus: float) -> None:
        import ray

        self._ray: Any = ray
        self._duty = ray.put(duty)
        self._options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0}
        self._crew: dict[int, Any] = {}
        self._asked: dict[Any, int] = {}

    def start(self, number: int) -> None:
        self._crew[number] = self._ray.remote(_Actor).options(**self._options).remote(self._duty)
        self._asked[self._crew[number].ready.remote()] = number

    def give(self, number: int, unit: Unit) -> None:
        self._asked[self._crew[number].work.remote(unit)] = number

    def next(self) -> tuple[int, Answer | None]:
        (ready,), _ = self._ray.wait(list(self._asked), num_returns=1)
        number = self._asked.pop(ready)
        try:
            answer: Answer = self._ray.get(ready)
        except self._ray.exceptions.RayError as problem:
            log.debug("actor %d: %s", number, problem)
            return number, None
        return number, answer

    def close(self) -> None:
        for actor in self._crew.values():
            self._ray.kill(actor)


class _Actor:
    def __init__(self, duty: Duty) -> None:
        quiet_libraries()
        self._worker = Worker(duty, 0)  # Ray shows an actor only its own GPUs

    def ready(self) -> Answer:
        return self._worker.ready()

    def work(self, unit: Unit) -> Answer:
        return self._worker(unit)
