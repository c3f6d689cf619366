"""What is distributed: units of a task, and what comes of each of their items."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, Protocol, TypeVar

import torch

from unmemorize._errors import RunError
from unmemorize.pipelines import Model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """Items that are worked on together: always the same ones, so that results do not depend on who works, or on what was done before.

    Args:
        number: of the unit.
        indices: of its items in the whole list.
        items: what to work on; they can be pickled.
    """

    number: int
    indices: tuple[int, ...]
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Finished:
    """What came of an item.

    Args:
        record: plain JSON values, or for tasks without a run folder anything that can be pickled.
        files: content by name, for the run folder.
    """

    record: Any
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """An item that could not be worked on, and why."""

    error: str


Outcome = Finished | Failed
UnitFunction = Callable[[Sequence[Any]], Sequence[Finished]]
"""Works on the items of a unit and returns what came of each."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Task(Protocol):
    """A kind of work. It is pickled for other processes."""

    @property
    def kind(self) -> str:
        """The name of its records."""
        ...

    @property
    def size(self) -> int:
        """Items in a unit."""
        ...

    def prepare(self, model: Model) -> UnitFunction:
        """What is needed once; errors that concern every item are raised here."""
        ...


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of the work, for programs that know nothing of each other.

    Args:
        number: of the part, from 1.
        count: how many parts there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From text such as 2/4.

        Raises:
            RunError: it is none.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise RunError(
                f"shard {text}: not a part of a whole. Write it as 1/4, 2/4, 3/4 and 4/4."
            )
        return cls(int(found[1]), int(found[2]))

    def __contains__(self, number: int) -> bool:
        return number % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


def units_of(items: Iterable[tuple[int, Any]], size: int) -> Iterator[Unit]:
    """Indexed items in units of this size."""
    given = iter(items)
    for number in count():
        part = list(islice(given, size))
        if not part:
            return
        yield Unit(number, tuple(index for index, _ in part), tuple(item for _, item in part))


def in_order(
    outcomes: Iterable[tuple[Unit, list[Outcome]]],
) -> Iterator[tuple[Unit, list[Outcome]]]:
    """The outcomes of units in the order of their numbers, for results that depend on it."""
    early: dict[int, tuple[Unit, list[Outcome]]] = {}
    number = 0
    for unit, found in outcomes:
        early[unit.number] = unit, found
        while number in early:
            yield early.pop(number)
            number += 1


def attempt(work: UnitFunction, unit: Unit) -> list[Outcome]:
    """Work on a unit, see `attempt_each`.

    Raises:
        RunError: the device does not work any more.
    """
    return attempt_each(work, unit.items)


def attempt_each(
    work: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Result | Failed]:
    """Work on items together; where that fails, on each half, until only those fail that must.

    Args:
        work: returns one result for each item.
        items: what to work on.

    Raises:
        RunError: the device does not work any more.

    >>> attempt_each(lambda numbers: [1 / number for number in numbers], [2, 0, 4])
    [0.5, Failed(error='ZeroDivisionError: division by zero'), 0.25]
    """
    try:
        return list(work(items))
    except torch.AcceleratorError as problem:
        raise RunError(
            f"the device fails: {_first_line(problem)}. The same command resumes from here."
        ) from problem
    except Exception as problem:  # whatever one prompt causes must not stop the others
        if len(items) == 1:
            log.debug("an item fails", exc_info=True)
            return [Failed(f"{type(problem).__name__}: {_first_line(problem)}")]
        middle = len(items) // 2
        return [*attempt_each(work, items[:middle]), *attempt_each(work, items[middle:])]


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().split("\n")[0][:500]
