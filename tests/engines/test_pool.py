from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmemorize import RunError
from unmemorize.engines import Failed, Finished, Shard, Unit, attempt, in_order, units_of
from unmemorize.engines._pool import Answer, work_through


class Scripted:
    """A crew without processes: the events say who answers next, and whether instead of answering it is lost."""

    def __init__(self, events: Iterator[tuple[int, bool]]) -> None:
        self._events = events
        self.starting: set[int] = set()
        self.ready: set[int] = set()
        self.at_work: dict[int, Unit] = {}
        self.closed = False

    def start(self, number: int) -> None:
        assert number not in self.at_work
        self.starting.add(number)

    def give(self, number: int, unit: Unit) -> None:
        assert number in self.ready
        assert number not in self.at_work
        self.at_work[number] = unit

    def next(self) -> tuple[int, Answer | None]:
        which, is_lost = next(self._events, (0, False))
        known = sorted(self.at_work.keys() | self.starting)
        number = known[which % len(known)]
        if number in self.starting:
            self.starting.remove(number)
            if not is_lost:
                self.ready.add(number)
            return number, None if is_lost else []
        unit = self.at_work.pop(number)
        if is_lost:
            self.ready.remove(number)
        return number, None if is_lost else [Finished(item * 2) for item in unit.items]

    def lost_by(self) -> str:
        return "of a script"

    def close(self) -> None:
        self.closed = True


@given(
    st.integers(0, 12),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30),
)
def test_every_unit_is_done_once_or_given_up_after_three_losses(
    count: int, workers: int, events: list[tuple[int, bool]]
) -> None:
    crew = Scripted(iter(events))
    found: dict[int, list[object]] = {}
    try:
        for unit, outcomes in work_through(
            crew, workers, units_of(((index, index) for index in range(count)), 1)
        ):
            assert unit.number not in found
            found[unit.number] = list(outcomes)
    except RunError:
        assert sum(is_lost for _, is_lost in events) >= 10
        return
    finally:
        assert crew.closed or not count
    assert sorted(found) == list(range(count))
    for number, (outcome,) in found.items():
        assert outcome in (Finished(number * 2), Failed("the worker was lost 3 times"))
    assert not crew.at_work


def test_a_worker_that_never_starts_holds_up_nothing() -> None:
    crew = Scripted(iter([(0, False)] * 50))  # the second worker is never asked
    found = [unit.number for unit, _ in work_through(crew, 2, units_of(enumerate(range(9)), 1))]
    assert found == list(range(9))
    assert 1 in crew.starting
    assert list(work_through(crew, 2, iter(()))) == []


def test_losses_without_end_are_an_error() -> None:
    crew = Scripted(iter([(0, True)] * 50))
    with pytest.raises(RunError, match="10 workers were lost one after the other"):
        list(work_through(crew, 2, units_of(enumerate(range(99)), 1)))
    assert crew.closed


def test_the_crew_is_closed_when_nobody_listens_any_more() -> None:
    crew = Scripted(iter([]))
    outcomes = work_through(crew, 2, units_of(enumerate(range(9)), 1))
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert crew.closed


def test_units_have_the_same_items_whatever_is_asked_for() -> None:
    units = list(units_of(((index, str(index)) for index in range(7)), 3))
    assert [unit.indices for unit in units] == [(0, 1, 2), (3, 4, 5), (6,)]
    assert units[2].items == ("6",)


def test_only_what_must_fail_fails() -> None:
    calls: deque[tuple[int, ...]] = deque()

    def work(items: Sequence[int]) -> list[Finished]:
        calls.append(tuple(items))
        if 5 in items:
            raise ValueError("five\nis too much")
        return [Finished(item) for item in items]

    unit = Unit(0, (10, 11, 12), (4, 5, 6))
    assert attempt(work, unit) == [Finished(4), Failed("ValueError: five"), Finished(6)]
    assert list(calls) == [(4, 5, 6), (4,), (5,), (6,)]


def test_results_that_depend_on_the_order_get_it() -> None:
    units = [Unit(number, (number,), ()) for number in (2, 0, 1, 4, 3)]
    found = in_order((unit, []) for unit in units)
    assert [unit.number for unit, _ in found] == [0, 1, 2, 3, 4]


def test_shards() -> None:
    parts = [Shard.parse(f"{number}/3") for number in (1, 2, 3)]
    for unit in range(10):
        assert sum(unit in part for part in parts) == 1
    assert [unit for unit in range(7) if unit in parts[0]] == [0, 3, 6]
    for text in ("0/3", "4/3", "3", "a/b", "1/3/5", ""):
        with pytest.raises(RunError, match="not a part of a whole"):
            Shard.parse(text)


def test_why_workers_are_lost_is_said() -> None:
    with pytest.raises(RunError, match=r"10 workers were lost one after the other \(of a script\)"):
        list(work_through(Scripted(iter([(0, True)] * 30)), 1, units_of(enumerate(range(9)), 1)))
