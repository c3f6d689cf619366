"""Tasks that tests hand to engines; in a module of their own, where other processes find them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from unmemorize import Model, ModelError
from unmemorize.engines import Finished, UnitFunction


@dataclass(frozen=True)
class AnyRun:
    """Settings of runs in tests of run folders."""

    kind: ClassVar[str] = "any"

    number: int = 0
    name: str = ""


@dataclass(frozen=True)
class Squares:
    """Squares of whole numbers. Negative ones fail.

    Args:
        size: items in a unit.
        deadly: a unit with this number kills its process, once for each line of ``lives``.
        lives: a file, of which each death deletes a line.
        gate: a named pipe (see `gate`) from which each unit takes a byte before it is worked on.
        broken: whether the task cannot be prepared.
    """

    size: int = 1
    deadly: int = -1
    lives: Path | None = None
    gate: Path | None = None
    broken: bool = False
    kind: str = "squares"

    def prepare(self, _model: Model) -> UnitFunction:
        if self.broken:
            raise ModelError("this task is broken")
        return self._work

    def _work(self, items: Sequence[int]) -> list[Finished]:
        if self.gate is not None:
            with self.gate.open("rb", buffering=0) as pipe:
                pipe.read(1)
        if (
            self.deadly in items
            and self.lives is not None
            and (lives := self.lives.read_text().splitlines())
        ):
            self.lives.write_text("\n".join(lives[1:]))
            os.kill(os.getpid(), signal.SIGKILL)
        if min(items) < 0:
            raise ValueError("a negative number\nand more")
        return [
            Finished(
                {"square": item * item, "pid": os.getpid()},
                {f"{item}.txt": b"x"} if item == 3 else {},
            )
            for item in items
        ]


class Gate:
    """The writing end of a named pipe. Units of `Squares` wait until they are let through."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        # for reading and writing, so that it opens before anybody reads and never ends
        self._descriptor = os.open(path, os.O_RDWR)

    def let_through(self, units: int) -> None:
        """Let so many units be worked on, now or when they come."""
        os.write(self._descriptor, b"." * units)

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def gate(path: Path) -> Iterator[Gate]:
    """Yield a closed gate at a path that does not exist yet."""
    opened = Gate(path)
    try:
        yield opened
    finally:
        opened.close()
