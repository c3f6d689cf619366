"""What is kept of a training that is not finished, so one that is killed goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unmemorize._errors import DivergedError, RunError
from unmemorize._files import read_tensors, write_tensors
from unmemorize.methods._trained import Parameters, optimizer_of, refusing_divergence, saved

_STATE = "state.safetensors"
"""The file of all that steps change."""
_DONE, _RATE = "steps", "rate"
"""Its numbers: steps that are done, and how many of the last ones were taken per second."""
Take = Callable[[range, torch.optim.AdamW], None]
"""Takes the steps of some numbers with the optimizer."""


class Unfinished:
    """Files of what is done so far.

    Args:
        folder: where they are. None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a file; none where it is missing.

        Raises:
            RunError: it is damaged.
        """
        path = self._folder / name if self._folder else None
        if path is None or not path.is_file():
            return {}
        return read_tensors(path, RunError, "file of an unfinished training")

    def write(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write or replace a file.

        Raises:
            RunError: the folder cannot be written.
        """
        if self._folder:
            write_tensors(self._folder / name, tensors, RunError)

    def train(
        self,
        trained: Parameters,
        rate: float,
        steps: int,
        together: int,
        generator: torch.Generator,
        take: Take,
    ) -> None:
        """Take all steps that are missing, and keep what they change.

        Args:
            trained: what the optimizer moves.
            rate: the learning rate, which ``take`` may change.
            steps: how many there are.
            together: how many are taken before their state is kept.
            generator: all random numbers of steps come from it.
            take: takes so many steps.

        Raises:
            DivergedError: numbers are not finite any more. The state of before is kept.
            RunError: the folder cannot be written, or a file in it is damaged.
        """
        state = self.read(_STATE)
        done = int(state[_DONE]) if state else 0
        if state:
            generator.set_state(state["generator"])
        optimizer = optimizer_of(trained, rate, 0.0, done, state)
        for start in range(done, steps, together):
            began, end = time.perf_counter(), min(start + together, steps)
            diverged = DivergedError(f"the training diverges before step {end} of {steps}.")
            with refusing_divergence(trained, diverged):
                take(range(start, end), optimizer)
            if self._folder:  # the state is large, and nothing else needs it
                seconds = time.perf_counter() - began
                place = {
                    _DONE: torch.tensor(end),
                    _RATE: torch.tensor((end - start) / seconds, dtype=torch.float64),
                    "generator": generator.get_state(),
                }
                self.write(_STATE, saved(trained, optimizer) | place)


@dataclass(frozen=True)
class StepsDone:
    """How far an unfinished training is.

    Args:
        steps: how many are done.
        rate: steps per second of the last ones; None where none are done.
        idle: seconds since something was kept; None where nothing is.
    """

    steps: int = 0
    rate: float | None = None
    idle: float | None = None


def steps_done(folder: Path) -> StepsDone:
    """Tell how far the training is that keeps its files in a folder, while a process trains or not.

    Raises:
        RunError: its state is damaged.
    """
    path = folder / _STATE
    try:
        idle = time.time() - max(file.stat().st_mtime for file in folder.iterdir())
        if not path.is_file():
            return StepsDone(idle=idle)
        with safe_open(path, "pt") as file:  # of a large file, this reads a few numbers
            steps = int(file.get_tensor(_DONE))
            rate = float(file.get_tensor(_RATE)) if _RATE in file.keys() else None  # noqa: SIM118
    except (FileNotFoundError, ValueError):  # it has just begun or ended
        return StepsDone()
    except (OSError, SafetensorError) as problem:
        raise RunError(
            f"{path}: the file of an unfinished training cannot be read ({problem}). Delete its "
            "folder, and the same command trains again."
        ) from problem
    return StepsDone(steps, rate, idle)
