"""Local worker processes: one for each GPU, or several on the CPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from tqdm import tqdm

from unmemorize._errors import RunError
from unmemorize.engines._pool import Answer, Lost, work_through
from unmemorize.engines._units import Outcome, Task, Unit
from unmemorize.engines._worker import Assignment, Worker, off_the_gpu
from unmemorize.pipelines import Model, quiet_libraries

_SPAWN = multiprocessing.get_context("spawn")


class Workers:
    """Several processes, each with its own model. On a machine with GPUs, worker k uses GPU k.

    The model must come from `Model.load`. A script that uses workers must keep its own work behind
    ``if __name__ == "__main__":``, as always with ``multiprocessing``.

    Args:
        count: how many processes.

    Raises:
        RunError: the count is below 1.

    Examples:
        >>> Workers(0)
        Traceback (most recent call last):
        unmemorize.RunError: 0 workers: at least 1 is needed. Use --workers 1 or more.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise RunError(f"{count} workers: at least 1 is needed. Use --workers 1 or more.")
        self._count = count

    def outcomes(
        self, model: Model, task: Task, units: Iterator[Unit]
    ) -> Iterator[tuple[Unit, list[Outcome]]]:
        """See `Engine`."""
        assignment = Assignment.of(model, task, self._count)
        with off_the_gpu(model):
            yield from work_through(ProcessPool(assignment), self._count, units)


class ProcessPool:
    """A `WorkerPool` of processes that end with this one, however it ends.

    Each process is at the other end of a pipe. The end of a process closes its end of the pipe,
    which is how its loss is noticed.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._processes: dict[int, tuple[SpawnProcess, Connection]] = {}

    def start(self, worker: int) -> None:
        """See `WorkerPool`."""
        connection, connection_of_worker = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=_serve,
            args=(connection_of_worker, self._assignment, worker),
            daemon=True,
            name=f"unmemorize worker {worker}",
        )
        with interrupts_deferred():
            process.start()
            self._processes[worker] = process, connection
        connection_of_worker.close()  # otherwise the pipe would stay open without the process

    def give(self, worker: int, unit: Unit) -> None:
        """See `WorkerPool`."""
        with suppress(OSError):  # the worker has just died, which next_event will notice
            self._processes[worker][1].send(unit)

    def next_event(self) -> tuple[int, Answer | Lost]:
        """See `WorkerPool`."""
        workers = {connection: worker for worker, (_, connection) in self._processes.items()}
        connection = wait(list(workers))[0]
        assert isinstance(connection, Connection)
        worker = workers[connection]
        try:
            answer: Answer = connection.recv()
        except (EOFError, OSError):
            process, _ = self._processes.pop(worker)
            process.join()
            connection.close()
            return worker, Lost()
        return worker, answer

    def close(self) -> None:
        """See `WorkerPool`."""
        for process, connection in self._processes.values():
            connection.close()
            process.kill()
        for process, _ in self._processes.values():
            process.join()
        self._processes.clear()


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Hold Ctrl-C back until the context ends, and hide it from processes that start meanwhile.

    A terminal sends Ctrl-C to all processes. This one handles it and stops its workers; they must
    not see it, also not in the moment before `_serve` ignores it. In this process it must not come
    between the start of a worker and the note that it runs, or nobody would stop that worker.
    Both need their own measure:

    - A new process inherits the signal mask of the thread that starts it. While SIGINT is blocked
      in this thread, workers are born with SIGINT blocked.
    - The mask of this thread does not keep other threads, such as that of a progress bar, from
      taking the signal. Python then runs the handler in the main thread, in the middle of the
      start. Meanwhile the handler therefore only notes the signal. Only the main thread may set a
      handler; in other threads nothing interrupts the start, because handlers never run there.
    """
    noted: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    # None means that a handler was set outside of Python, which Python could not set again
    is_ours = threading.current_thread() is threading.main_thread() and handler is not None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if is_ours:
        signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if noted:
        signal.raise_signal(signal.SIGINT)


def _serve(connection: Connection, assignment: Assignment, number: int) -> None:
    """Answer the units that come through a connection, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet_libraries()
    # tqdm's own lock is a semaphore, which counts as leaked when a worker is stopped
    tqdm.set_lock(threading.RLock())
    worker = Worker(assignment, number)
    with suppress(EOFError, OSError):
        connection.send(worker.first_answer)
        while True:
            connection.send(worker.work(connection.recv()))


def _end_with_parent() -> None:
    """End this process when the one that started it ends, even in the middle of a unit."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
