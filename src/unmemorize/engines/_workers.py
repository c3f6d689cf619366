"""Local worker processes: one for each GPU, or several on the CPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Iterator, Sequence
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

    The processes stay for the next task with the same model, off the GPU, and end with this object.

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
        self._resting: list[ProcessPool] = []
        weakref.finalize(self, _close_all, self._resting)

    def outcomes(
        self, model: Model, task: Task, units: Iterator[Unit]
    ) -> Iterator[tuple[Unit, list[Outcome]]]:
        """See `Engine`."""
        assignment = Assignment.of(model, self._count)
        pool = self._rested(assignment) or ProcessPool(assignment)
        pool.task = task
        with off_the_gpu(model):
            yield from work_through(pool, self._count, units)
        self._resting.append(pool)

    def _rested(self, assignment: Assignment) -> ProcessPool | None:
        """Take the pool that rests, if there is one for this model. Close others."""
        with suppress(IndexError):  # another thread may take it
            pool = self._resting.pop()
            if pool.assignment == assignment:
                return pool
            pool.close()
        return None


class ProcessPool:
    """A `WorkerPool` of processes that end with this one, however it ends.

    Each process is at the other end of a pipe. The end of a process closes its end of the pipe,
    which is how its loss is noticed.

    Args:
        assignment: what workers are told when they start.

    Attributes:
        task: what they do next.
    """

    task: Task

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self._processes: dict[int, tuple[SpawnProcess, Connection]] = {}
        self._idle: set[int] = set()

    def start(self, worker: int) -> None:
        """See `WorkerPool`."""
        if worker in self._processes:
            self._send(worker, self.task)
            return
        connection, connection_of_worker = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=_serve,
            args=(connection_of_worker, self.assignment, self.task, worker),
            daemon=True,
            name=f"unmemorize worker {worker}",
        )
        with interrupts_deferred():
            process.start()
            self._processes[worker] = process, connection
        connection_of_worker.close()  # otherwise the pipe would stay open without the process

    def give(self, worker: int, unit: Unit) -> None:
        """See `WorkerPool`."""
        self._send(worker, unit)

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
            self._idle.discard(worker)
            process.join()
            connection.close()
            return worker, Lost()
        self._idle.add(worker)
        return worker, answer

    def rest(self) -> None:
        """See `WorkerPool`."""
        idle = list(self._idle)
        self._stop([worker for worker in self._processes if worker not in idle])
        for worker in idle:
            self._send(worker, None)
        while self._processes.keys() - self._idle:  # the GPU is free when all have answered
            self.next_event()

    def close(self) -> None:
        """See `WorkerPool`."""
        self._stop(list(self._processes))

    def _send(self, worker: int, message: Task | Unit | None) -> None:
        self._idle.discard(worker)
        with suppress(OSError):  # the worker has just died, which next_event will notice
            self._processes[worker][1].send(message)

    def _stop(self, workers: Sequence[int]) -> None:
        stopped = [self._processes.pop(worker) for worker in workers]
        for process, connection in stopped:
            connection.close()
            process.kill()
        for process, _ in stopped:
            process.join()


def _close_all(pools: list[ProcessPool]) -> None:
    for pool in pools:
        pool.close()


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


def _serve(connection: Connection, assignment: Assignment, task: Task, number: int) -> None:
    """Work on a task and on others that come through a connection, until it is closed.

    None stands for rest. Each message is answered.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet_libraries()
    # tqdm's own lock is a semaphore, which counts as leaked when a worker is stopped
    tqdm.set_lock(threading.RLock())
    worker = Worker(assignment, number)
    with suppress(EOFError, OSError):
        connection.send(worker.prepare(task))
        while True:
            match connection.recv():
                case None:
                    connection.send(worker.rest())
                case Unit() as unit:
                    connection.send(worker.work(unit))
                case another:
                    connection.send(worker.prepare(another))


def _end_with_parent() -> None:
    """End this process when the one that started it ends, even in the middle of a unit."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
