"""Ray actors: one for each GPU of a cluster, pulling units from the driver, which writes what they send back."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

from unmemorize._errors import RunError
from unmemorize.engines._pool import Answer, Duty, Worker, aside, work_through
from unmemorize.engines._units import Outcome, Task, Unit
from unmemorize.pipelines import Model, quiet_libraries

log = logging.getLogger(__name__)

_PATIENCE = 30.0
"""Seconds without any answer, after which it is said what is waited for."""


class RayActors:
    """Several Ray actors, each with its own model, on a local Ray or a cluster.

    The pipeline must come from `load_pipeline`, and what it was loaded from must be there on every node.

    Args:
        count: how many.
        gpus: of each; a fraction shares one. By default 1 where the cluster has any.
        address: of the cluster, such as "auto" or "host:6379"; by default one is started on this machine, or the connected one used.

    Raises:
        RunError: the numbers make no sense.
    """

    def __init__(
        self, count: int, *, gpus: float | None = None, address: str | None = None
    ) -> None:
        if count < 1:
            raise RunError(f"{count} workers: at least 1 is needed.")
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise RunError(
                f"{gpus:g} GPUs for each actor: above 1, only whole ones. Use 1, 2, or a fraction below 1."
            )
        self._count, self._gpus, self._address = count, gpus, address

    def outcomes(
        self, model: Model, task: Task, units: Iterator[Unit]
    ) -> Iterator[tuple[Unit, list[Outcome]]]:
        """See `Engine`."""
        try:
            import ray
        except ImportError as problem:
            raise RunError("the engine ray needs Ray. pip install 'unmemorize[ray]'") from problem
        ours = not ray.is_initialized()
        if ours:
            try:
                _see(self._address)
                started = {
                    "address": "local",
                    "include_dashboard": False,
                }  # without an address Ray takes any that runs here, of anybody
                there = {"address": self._address} if self._address else started
                ray.init(**there, log_to_driver=False, logging_level="ERROR")
            except (OSError, ValueError, RuntimeError) as problem:
                where, hint = "a Ray of its own cannot be started", "See its logs."
                if self._address:
                    where = f"Ray at {self._address}: cannot be reached"
                    hint = "Is it running there? One that asks for a token needs RAY_AUTH_MODE=token here."
                raise RunError(f"{where} ({problem}). {hint}") from problem
        try:
            there = ray.cluster_resources().get("GPU", 0)
            gpus = self._gpus if self._gpus is not None else float(bool(there))
            if ours and not self._address and gpus > there:
                raise RunError(
                    f"{gpus:g} GPUs for each actor, and this machine has {there:g}. Use fewer --gpus, or a cluster: --address."
                )
            with aside(model):
                yield from work_through(
                    _Actors(Duty.of(model, task, 1 if gpus else self._count), gpus),
                    self._count,
                    units,
                )
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
        self._needs = f"1 CPU and {gpus:g} GPUs"
        self._working, self._lost_by = False, ""

    def start(self, number: int) -> None:
        self._crew[number] = self._ray.remote(_Actor).options(**self._options).remote(self._duty)
        self._asked[self._crew[number].ready.remote()] = number

    def give(self, number: int, unit: Unit) -> None:
        self._asked[self._crew[number].work.remote(unit)] = number

    def next(self) -> tuple[int, Answer | None]:
        while True:
            done, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=_PATIENCE)
            if done:
                break
            if not self._working:
                log.warning(
                    "no actor has started yet: each needs %s, the cluster has %s",
                    self._needs,
                    _resources(self._ray),
                )
        number = self._asked.pop(done[0])
        try:
            answer: Answer = self._ray.get(done[0])
        except self._ray.exceptions.RayError as problem:
            self._lost_by = str(problem).strip().split("\n")[-1][:500]
            return number, None
        self._working = True
        return number, answer

    def lost_by(self) -> str:
        return self._lost_by

    def close(self) -> None:
        for actor in self._crew.values():
            self._ray.kill(actor)


def _see(address: str | None) -> None:
    """See that somebody answers there: Ray itself would try for minutes, and not even Ctrl-C would end that.

    Raises:
        OSError: nobody does.
    """
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=5).close()


def _resources(ray: Any) -> str:
    found = ray.cluster_resources()
    return (
        f"{found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs on {len(ray.nodes())} nodes"
    )


class _Actor:
    def __init__(self, duty: Duty) -> None:
        quiet_libraries()
        self._worker = Worker(duty, 0)  # Ray shows an actor only its own GPUs

    def ready(self) -> Answer:
        return self._worker.ready()

    def work(self, unit: Unit) -> Answer:
        return self._worker(unit)
