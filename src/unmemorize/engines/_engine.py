"""The one interface of all drivers, and the simplest of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from unmemorize.engines._units import Outcome, Task, Unit, attempt
from unmemorize.pipelines import Model


class Engine(Protocol):
    """Works through units, in whatever order."""

    def outcomes(
        self, model: Model, task: Task, units: Iterator[Unit]
    ) -> Iterator[tuple[Unit, list[Outcome]]]:
        """What comes of each unit, as soon as it is known; units are pulled when somebody is free for them.

        Raises:
            UnmemorizeError: the task cannot be prepared, or nobody is able to work.
        """
        ...


class InProcess:
    """Everything is done here, with the live pipeline."""

    def outcomes(
        self, model: Model, task: Task, units: Iterator[Unit]
    ) -> Iterator[tuple[Unit, list[Outcome]]]:
        """See `Engine`."""
        work = task.prepare(model)
        for unit in units:
            yield unit, attempt(work, unit)
