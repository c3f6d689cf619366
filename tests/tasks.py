"""Tasks that tests hand to engines; in a module of their own, where other processes find them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
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

    A unit with ``deadly`` kills its process while the file ``alive`` has a line.

    Args:
        alive: each death deletes a line of this file.
        pause: seconds for each unit.
        broken: whether it cannot be prepared.
    """

    size: int = 1
    deadly: int = -1
    alive: Path | None = None
    pause: float = 0.0
    broken: bool = False
    kind: str = "squares"

    def prepare(self, _model: Model) -> UnitFunction:
        if self.broken:
            raise ModelError("this task is broken")
        return self._work

    def _work(self, items: Sequence[int]) -> list[Finished]:
        time.sleep(self.pause)
        if (
            self.deadly in items
            and self.alive is not None
            and (lives := self.alive.read_text().splitlines())
        ):
            self.alive.write_text("\n".join(lives[1:]))
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
