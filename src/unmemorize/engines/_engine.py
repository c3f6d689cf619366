"""The interface of all engines, and the simplest of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from unmemorize.engines._units import Outcome, Task, Unit, attempt_each
from unmemorize.pipelines import Model


class Engine(Protocol):
    """Something that works through the units of a task, in any order."""

    def outcomes(
        self, model: Model, task: Task, units: Iterator[Unit]
    ) -> Iterator[tuple[Unit, list[Outcome]]]:
        """Yield each unit with the outcomes of its items as soon as they are known.

        Args:
            model: the model to work with. Engines with other processes load it again there.
            task: what to do.
            units: read lazily, at most one more than there are free workers.

        Raises:
            UnmemorizeError: the task cannot be prepared, or no worker is able to work.
        """
        ...


class InProcess:
    """An engine that does all work in this process, with the live pipeline.

    Examples:
        >>> InProcess()  # doctest: +ELLIPSIS
        <unmemorize.engines._engine.InProcess object at ...>
    """

    def outcomes(
        self, model: Model, task: Task, units: Iterator[Unit]
    ) -> Iterator[tuple[Unit, list[Outcome]]]:
        """See `Engine`."""
        with torch.inference_mode(False):  # as in a worker, whatever mode the caller is in
            work = task.prepare(model)
        for unit in units:
            with torch.inference_mode(False):
                outcomes = attempt_each(work, unit.items)
            yield unit, outcomes
