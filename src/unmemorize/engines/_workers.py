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
from unmemorize.engines._pool import Answer, Duty, Worker, aside, work_through
from unmemorize.engines._units import Outcome, Task, Unit
from unmemorize.pipelines import Model, quiet_libraries

_SPAWN = multiprocessing.get_context("spawn")


class Workers:
    """Several processes, each with its own model; on a machine with GPUs worker k uses GPU k.

    The pipeline must come from `load_pipeline`, and the script that starts them must have its own work behind
    ``if __name__ == "__main__":``, as always with ``multiprocessing``.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise RunError(f"{count} workers: at least 1 is needed.")
        self._count = count

    def outcomes(
        self, model: Model, task: Task, units: Iterator[Unit]
    ) -> Iterator[tuple[Unit, list[Outcome]]]:
        """See `Engine`."""
        with aside(model):
            yield from work_through(
                _Processes(Duty.of(model, task, self._count)), self._count, units
            )


class _Processes:
    """A `Crew` of processes that end with this one, however it ends."""

    def __init__(self, duty: Duty) -> None:
        self._duty = duty
        self._crew: dict[int, tuple[SpawnProcess, Connection]] = {}

    def start(self, number: int) -> None:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=_serve,
            args=(theirs, self._duty, number),
            daemon=True,
            name=f"unmemorize worker {number}",
        )
        with (
            _without_interrupts()
        ):  # from its first moment on: Ctrl-C is this process's business, which stops all others
            process.start()
            self._crew[number] = process, ours
        theirs.close()  # so that the end of the process is the end of the pipe

    def give(self, number: int, unit: Unit) -> None:
        with suppress(OSError):  # a worker that just died is noticed by `next`
            self._crew[number][1].send(unit)

    def next(self) -> tuple[int, Answer | None]:
        numbers = {connection: number for number, (_, connection) in self._crew.items()}
        ready = wait(list(numbers))[0]
        assert isinstance(ready, Connection)
        try:
            answer: Answer | None = ready.recv()
        except (EOFError, OSError):
            process, _ = self._crew.pop(numbers[ready])
            process.join()
            ready.close()
            answer = None
        return numbers[ready], answer

    def lost_by(self) -> str:
        return ""

    def close(self) -> None:
        for process, connection in self._crew.values():
            connection.close()
            process.kill()
        for process, _ in self._crew.values():
            process.join()
        self._crew.clear()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started meanwhile never see Ctrl-C; this one sees it afterwards."""
    seen: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # they inherit it
    handler = None
    if (
        threading.current_thread() is threading.main_thread()
    ):  # any other thread, as that of a progress bar, may take the signal for it
        handler = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in seen[:1]:
        signal.raise_signal(number)


def _serve(connection: Connection, duty: Duty, number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet_libraries()
    tqdm.set_lock(
        threading.RLock()
    )  # its own is a semaphore, which counts as leaked when a worker is stopped
    worker = Worker(duty, number)
    with suppress(EOFError, OSError):
        connection.send(worker.ready())
        while True:
            connection.send(worker(connection.recv()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
