"""Ray actors, one for each GPU of a cluster."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unmemorize._errors import RunError
from unmemorize.engines._pool import Answer, Lost, work_through
from unmemorize.engines._units import Outcome, Task, Unit
from unmemorize.engines._worker import Assignment, Worker, off_the_gpu
from unmemorize.pipelines import Model, quiet_libraries

log = logging.getLogger(__name__)

_PATIENCE = 30.0
"""Seconds without any answer after which the user is told what is waited for."""
_CONNECT_TIMEOUT = 5.0
"""Seconds in which a Ray head node must accept a connection. Ray itself would try for minutes."""
_LONGEST_CAUSE = 500
"""Characters of Ray's error that are shown; some quote whole logs."""


class RayActors:
    """Several Ray actors, each with its own model, on this machine or a cluster.

    The model must come from `Model.load`, and every node must be able to load it.

    Args:
        count: how many actors.
        gpus: how many GPUs each of them gets; a fraction shares one. By default 1 where the
            cluster has any.
        address: where the cluster is, such as "auto" or "host:6379". By default the connected
            cluster is used, or a new one is started on this machine.

    Raises:
        RunError: the count is below 1, or the GPUs are neither whole nor a fraction of one.

    Examples:
        >>> RayActors(0)
        Traceback (most recent call last):
        unmemorize.RunError: 0 workers: at least 1 is needed. Use --workers 1 or more.
    """

    def __init__(
        self, count: int, *, gpus: float | None = None, address: str | None = None
    ) -> None:
        if count < 1:
            raise RunError(f"{count} workers: at least 1 is needed. Use --workers 1 or more.")
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise RunError(
                f"{gpus:g} GPUs for each actor: not possible. Use whole ones, or a part of one."
            )
        self._count = count
        self._gpus = gpus
        self._address = address

    def outcomes(
        self, model: Model, task: Task, units: Iterator[Unit]
    ) -> Iterator[tuple[Unit, list[Outcome]]]:
        """See `Engine`."""
        try:
            import ray
        except ImportError as problem:
            raise RunError("the engine ray needs Ray. pip install 'unmemorize[ray]'") from problem
        with _connected(ray, self._address) as started_here:
            gpus_of_cluster = ray.cluster_resources().get("GPU", 0)
            gpus = self._gpus if self._gpus is not None else float(gpus_of_cluster > 0)
            if started_here and gpus > gpus_of_cluster:
                raise RunError(
                    f"{gpus:g} GPUs for each actor, but this machine has {gpus_of_cluster:g}. Use "
                    "fewer --gpus, or a cluster: --address."
                )
            assignment = Assignment.of(model, 1 if gpus else self._count)
            with off_the_gpu(model):
                pool = ActorPool(ray, assignment, task, gpus=gpus)
                yield from work_through(pool, self._count, units)


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[bool]:
    """Connect to a Ray cluster, or start one, unless this process is connected already.

    Yields:
        Whether a cluster was started on this machine.

    Raises:
        RunError: the cluster cannot be reached or started.
    """
    if ray.is_initialized():
        yield False
        return
    try:
        if address is None:
            # Without an address Ray would join any cluster on this machine, whoever runs it
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
        else:
            _check_reachable(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as problem:
        if address is None:
            raise RunError(f"Ray cannot be started ({problem}). See its logs.") from problem
        raise RunError(
            f"Ray at {address}: cannot be reached ({problem}). Is it running there? If it asks for "
            "a token, set RAY_AUTH_MODE=token here."
        ) from problem
    try:
        yield address is None
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Connect once to host:port, because Ray's own attempts cannot be stopped by Ctrl-C.

    Raises:
        OSError: nobody accepts the connection.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT).close()


class ActorPool:
    """A `WorkerPool` of Ray actors.

    Args:
        ray: the module, connected to a cluster.
        assignment: what the actors are told.
        task: what they do.
        gpus: how many GPUs each actor needs.
    """

    def __init__(self, ray: Any, assignment: Assignment, task: Task, *, gpus: float) -> None:
        self._ray = ray
        self._assignment, self._task = ray.put(assignment), ray.put(task)
        self._actor_class = ray.remote(Actor).options(num_cpus=1, num_gpus=gpus, max_restarts=0)
        self._actors: dict[int, Any] = {}
        self._worker_of_call: dict[Any, int] = {}
        self._needs = f"1 CPU and {gpus:g} GPUs"
        self._has_started = False

    def start(self, worker: int) -> None:
        """See `WorkerPool`."""
        actor = self._actor_class.remote(self._assignment)
        self._actors[worker] = actor
        self._worker_of_call[actor.prepare.remote(self._task)] = worker

    def give(self, worker: int, unit: Unit) -> None:
        """See `WorkerPool`."""
        self._worker_of_call[self._actors[worker].work.remote(unit)] = worker

    def next_event(self) -> tuple[int, Answer | Lost]:
        """See `WorkerPool`."""
        call = self._wait_for_any_call()
        worker = self._worker_of_call.pop(call)
        try:
            answer: Answer = self._ray.get(call)
        except self._ray.exceptions.RayError as problem:
            return worker, Lost(str(problem).strip().split("\n")[-1][:_LONGEST_CAUSE])
        self._has_started = True
        return worker, answer

    def _wait_for_any_call(self) -> Any:
        """Wait for an answer. Say what is missing as long as no actor at all has started."""
        while True:
            calls = list(self._worker_of_call)
            answered, _ = self._ray.wait(calls, num_returns=1, timeout=_PATIENCE)
            if answered:
                return answered[0]
            if not self._has_started:
                resources = self._ray.cluster_resources()
                log.warning(
                    "no actor has started yet: each needs %s, the cluster has %g CPUs and %g GPUs "
                    "on %d nodes",
                    self._needs,
                    resources.get("CPU", 0),
                    resources.get("GPU", 0),
                    len(self._ray.nodes()),
                )

    def rest(self) -> None:
        """See `WorkerPool`. Actors stop, because others on the cluster may wait for their GPUs."""
        self.close()

    def close(self) -> None:
        """See `WorkerPool`."""
        for actor in self._actors.values():
            self._ray.kill(actor)


class Actor:
    """A `Worker` as a Ray actor."""

    def __init__(self, assignment: Assignment) -> None:
        quiet_libraries()
        # number 0, because Ray shows each actor only its own GPUs
        self._worker = Worker(assignment, 0)

    def prepare(self, task: Task) -> Answer:
        """Prepare the task."""
        return self._worker.prepare(task)

    def work(self, unit: Unit) -> Answer:
        """Work on a unit."""
        return self._worker.work(unit)
