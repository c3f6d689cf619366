"""What engines distribute: the units of a task, and the outcomes of their items."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, Protocol, TypeVar

import torch

from unmemorize._errors import RunError, first_line
from unmemorize.pipelines import Model

log = logging.getLogger(__name__)

_LONGEST_REASON = 500
"""Characters of an error's first line that are recorded. Some errors quote whole tensors."""


@dataclass(frozen=True)
class Unit:
    """Items that are worked on together.

    A unit always holds the same items, whoever works on it and whatever was finished before.
    Results therefore never depend on either, not even by rounding.

    Args:
        number: the unit's place among all units, from 0.
        indices: the places of its items in the whole list.
        items: what to work on. They can be pickled.
    """

    number: int
    indices: tuple[int, ...]
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Finished:
    """The result of an item.

    Args:
        record: JSON values; for tasks without a run folder, anything that can be pickled.
        files: contents by file name, which are written to the run folder.
    """

    record: Any
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """The reason why there is no result of an item."""

    error: str


Outcome = Finished | Failed
UnitFunction = Callable[[Sequence[Any]], Sequence[Outcome]]
"""Works on the items of a unit and returns one outcome for each, in their order."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Task(Protocol):
    """A kind of work on many items. Engines pickle it for other processes."""

    @property
    def kind(self) -> str:
        """The name of its records."""
        ...

    @property
    def size(self) -> int:
        """How many items make a unit."""
        ...

    def prepare(self, model: Model) -> UnitFunction:
        """Prepare what all units need, once for each process.

        Raises:
            UnmemorizeError: something is wrong that concerns every item.
        """
        ...


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of the work, for programs that do not know of each other.

    Shard k of n holds the units k - 1, k - 1 + n, k - 1 + 2 n, ...

    Args:
        number: which share, from 1.
        count: how many shares there are.

    Examples:
        >>> [unit for unit in range(7) if unit in Shard(1, 3)]
        [0, 3, 6]
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read a shard from text such as "2/4".

        Raises:
            RunError: the text is not of this form, or the number is not from 1 to the count.

        Examples:
            >>> Shard.parse("2/4")
            Shard(number=2, count=4)
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise RunError(f"shard {text}: not a share of a whole. Write 1/4, 2/4, 3/4 and 4/4.")
        return cls(int(match[1]), int(match[2]))

    def __contains__(self, unit_number: int) -> bool:
        return unit_number % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


def units_of(items: Iterable[tuple[int, Any]], size: int) -> Iterator[Unit]:
    """Group items into units, reading only one unit at a time.

    Args:
        items: pairs of index and item.
        size: how many items make a unit; the last one may have fewer.

    Examples:
        >>> [unit.indices for unit in units_of(enumerate("abcde"), 2)]
        [(0, 1), (2, 3), (4,)]
    """
    remaining = iter(items)
    for number in count():
        pairs = list(islice(remaining, size))
        if not pairs:
            return
        yield Unit(number, tuple(index for index, _ in pairs), tuple(item for _, item in pairs))


def attempt_each(
    work: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Result | Failed]:
    """Work on all items together. Where that fails, work on each half, down to single items.

    Args:
        work: returns one result for each item.
        items: what to work on.

    Returns:
        One result or failure for each item, in their order.

    Raises:
        RunError: the device has stopped working.

    Examples:
        >>> attempt_each(lambda numbers: [1 / number for number in numbers], [2, 0, 4])
        [0.5, Failed(error='ZeroDivisionError: division by zero'), 0.25]
    """
    try:
        return list(work(items))
    except torch.AcceleratorError as problem:
        raise RunError(
            f"the device fails: {_reason(problem)}. The same command resumes from here."
        ) from problem
    except Exception as problem:  # an error that one prompt causes must not stop the others
        if len(items) == 1:
            log.debug("an item fails", exc_info=True)
            return [Failed(f"{type(problem).__name__}: {_reason(problem)}")]
    # The halves are tried outside of the except block. Inside, the error's traceback would keep
    # the tensors of the failed attempt, which may be what fills the memory.
    middle = len(items) // 2
    return [*attempt_each(work, items[:middle]), *attempt_each(work, items[middle:])]


def _reason(problem: BaseException) -> str:
    return first_line(problem)[:_LONGEST_REASON]
