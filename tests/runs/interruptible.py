"""Child processes that a test stops at a known moment, and that get real signals.

Children are forked from one process that has imported everything, so each costs little. A child
reports each record that it has written and each worker that it has started, and then waits until
the test lets it go on.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from unmemorize import cli
from unmemorize.engines._workers import ProcessPool
from unmemorize.runs._records import Writer

RECORD, WORKER = "record", "worker"
_PATIENCE = 300
"""Seconds after which a child that says nothing fails the test."""
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "unmemorize.cli.localize",
        "unmemorize.cli.statistics",
        "unmemorize.cli.threshold",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
        "transformers.models.clip.modeling_clip",
        "transformers.models.clip.tokenization_clip",
    ]
)


class Child:
    """A process that is stopped after each step."""

    def __init__(
        self, target: Callable[..., object], arguments: tuple[Any, ...], output: Path
    ) -> None:
        self._connection, connection_of_child = _CONTEXT.Pipe()
        self._output = output
        self._process = _CONTEXT.Process(
            target=_run, args=(connection_of_child, output, target, arguments)
        )
        self._process.start()
        connection_of_child.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def next_step(self) -> str | None:
        """Wait for the next step, after which the child waits; None if it has ended."""
        assert self._connection.poll(_PATIENCE), self.output()
        try:
            step: str = self._connection.recv()
        except (EOFError, ConnectionError):
            return None
        return step

    def go_on(self, steps: int = 1) -> None:
        """Let the child go on, and not stop after so many steps."""
        for _ in range(steps):
            self._connection.send(None)

    def reach(self, step: str, count: int = 1) -> int:
        """Let the child go on until so many steps of a kind are done; returns how many are."""
        done = 0
        while done < count:
            name = self.next_step()
            if name is None:
                break
            done += name == step
            if done < count:
                self.go_on()
        return done

    def finish(self) -> int:
        """Let the child go on to its end and return its exit code."""
        while self.next_step() is not None:
            self.go_on()
        self._process.join(_PATIENCE)
        assert self._process.exitcode is not None
        return self._process.exitcode

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self._process.kill()
        self._process.join()

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        self._process.join(_PATIENCE)
        assert self._process.exitcode is not None, self.output()
        return self._process.exitcode

    def output(self) -> str:
        """What it has printed so far, with line breaks folded."""
        return " ".join(self._output.read_text().split())


@contextmanager
def child(target: Callable[..., object], *arguments: Any, output: Path) -> Iterator[Child]:
    """Yield a child, which is killed at the end if it still runs."""
    started = Child(target, arguments, output)
    try:
        yield started
    finally:
        started.kill()


def command(*arguments: str) -> None:
    """Run the command line."""
    sys.argv = ["unmemorize", *arguments]
    cli.run()


def wait_for_ends(processes: dict[int, int]) -> bool:
    """Wait until processes have ended, given by the handles that `handles` returned."""
    return all(select.select([handle], [], [], 60)[0] for handle in processes.values())


def handles(processes: list[int]) -> dict[int, int]:
    """Handles of processes, which stay theirs when another process gets the same number."""
    return {process: os.pidfd_open(process) for process in processes}


def _run(
    connection: Connection, output: Path, target: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)  # results are then the same to the last bit

    def stop_after(step: str, function: Callable[..., None]) -> Callable[..., None]:
        def stepping(*values: Any) -> None:
            function(*values)
            connection.send(step)
            connection.recv()

        return stepping

    Writer.append = stop_after(RECORD, Writer.append)  # type: ignore[method-assign]
    ProcessPool.start = stop_after(WORKER, ProcessPool.start)  # type: ignore[method-assign]
    target(*arguments)
