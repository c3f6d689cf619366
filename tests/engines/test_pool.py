"""What happens to units when workers are lost, played through without processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmemorize import RunError
from unmemorize.engines import Failed, Finished, Unit, units_of
from unmemorize.engines._pool import Answer, Done, Lost, Ready, Unable, work_through


class ScriptedPool:
    """A pool without processes.

    Args:
        script: pairs (which, is_lost). The first picks the worker to which the next thing happens,
            and the second says whether it is lost. After the script, the first busy or starting
            worker answers.
    """

    def __init__(self, script: Iterator[tuple[int, bool]]) -> None:
        self._script = script
        self.starting: set[int] = set()
        self.idle: set[int] = set()
        self.busy: dict[int, Unit] = {}
        self.attempts: Counter[int] = Counter()
        self.losses_of_unit: Counter[int] = Counter()
        self.starts = 0
        self.closed = self.rests = False

    def start(self, worker: int) -> None:
        assert worker not in self.starting | self.idle | self.busy.keys()
        self.starts += 1
        self.starting.add(worker)

    def give(self, worker: int, unit: Unit) -> None:
        self.idle.remove(worker)
        self.busy[worker] = unit
        self.attempts[unit.number] += 1

    def next_event(self) -> tuple[int, Answer | Lost]:
        which, is_lost = next(self._script, (0, False))
        able_to_answer = sorted(self.starting | self.busy.keys())
        candidates = sorted([*able_to_answer, *self.idle]) if is_lost else able_to_answer
        assert candidates, "the pool would wait for ever"
        worker = candidates[which % len(candidates)]
        if is_lost:
            self.starting.discard(worker)
            self.idle.discard(worker)
            unit = self.busy.pop(worker, None)
            if unit is not None:
                self.losses_of_unit[unit.number] += 1
            return worker, Lost("out of memory")
        self.idle.add(worker)
        if worker in self.starting:
            self.starting.remove(worker)
            return worker, Ready()
        return worker, Done([Finished(item * 2) for item in self.busy.pop(worker).items])

    def rest(self) -> None:
        self.rests = True

    def close(self) -> None:
        self.closed = True


def units(count: int, size: int = 1) -> Iterator[Unit]:
    return units_of(((index, index) for index in range(count)), size)


@given(
    st.integers(0, 12),
    st.integers(1, 3),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30),
)
def test_each_unit_is_done_once_or_given_up_after_three_losses(
    count: int, size: int, workers: int, script: list[tuple[int, bool]]
) -> None:
    pool = ScriptedPool(iter(script))
    outcomes: dict[int, object] = {}
    numbers: list[int] = []
    try:
        for unit, unit_outcomes in work_through(pool, workers, units(count, size)):
            numbers.append(unit.number)
            outcomes |= zip(unit.indices, unit_outcomes, strict=True)
    except RunError:
        assert sum(is_lost for _, is_lost in script) >= 10
        assert pool.closed
        return
    assert (pool.rests, pool.closed) == (True, False)
    assert sorted(numbers) == list(range(-(-count // size)))
    assert sorted(outcomes) == list(range(count))
    assert not pool.busy
    for index, outcome in outcomes.items():
        if pool.losses_of_unit[index // size] == 3:
            assert outcome == Failed("the worker was lost 3 times")
        else:
            assert outcome == Finished(index * 2)
            assert pool.attempts[index // size] == pool.losses_of_unit[index // size] + 1


def test_a_lost_unit_is_tried_again_before_new_ones() -> None:
    script = [(0, False), (0, True), (0, False), (0, True), (0, False)]
    pool = ScriptedPool(iter(script))
    results = list(work_through(pool, 1, units(3)))
    assert [(unit.number, outcomes) for unit, outcomes in results] == [
        (0, [Finished(0)]),
        (1, [Finished(2)]),
        (2, [Finished(4)]),
    ]
    assert pool.attempts == {0: 3, 1: 1, 2: 1}


def test_a_unit_that_kills_its_workers_is_given_up() -> None:
    script = [(0, False), (0, True)] * 3
    pool = ScriptedPool(iter(script))
    results = [(unit.indices, outcomes) for unit, outcomes in work_through(pool, 1, units(4, 2))]
    assert results == [
        ((0, 1), [Failed("the worker was lost 3 times")] * 2),
        ((2, 3), [Finished(4), Finished(6)]),
    ]


def test_a_worker_that_was_lost_while_idle_gets_no_unit_before_it_is_ready_again() -> None:
    """Its first answer was once taken for the outcomes of the unit."""
    script = [(0, False), (1, False), (0, False), (0, True), (1, True)]
    pool = ScriptedPool(iter(script))  # worker 0 is idle when it is lost, and then worker 1 is
    results = [(unit.number, outcomes) for unit, outcomes in work_through(pool, 2, units(2))]
    assert sorted(results) == [(0, [Finished(0)]), (1, [Finished(2)])]
    assert pool.starts == 4


def test_a_worker_that_never_starts_delays_nothing() -> None:
    pool = ScriptedPool(iter([(0, False)] * 50))  # nothing ever happens to the second worker
    assert [unit.number for unit, _ in work_through(pool, 2, units(9))] == list(range(9))
    assert 1 in pool.starting


def test_no_worker_is_started_for_nothing() -> None:
    pool = ScriptedPool(iter(()))
    assert list(work_through(pool, 2, iter(()))) == []
    assert pool.starts == 0
    pool = ScriptedPool(iter([(0, False), (0, True)] * 3))
    assert [unit.number for unit, _ in work_through(pool, 1, units(1))] == [0]
    assert pool.starts == 3  # not a fourth time after the unit was given up


def test_losses_in_a_row_are_an_error_that_names_the_cause() -> None:
    script = [(0, True)] * 9 + [(0, False)] * 2 + [(0, True)] * 10
    pool = ScriptedPool(iter(script))  # the one unit done after nine losses starts a new row
    results = work_through(pool, 2, units(99))
    assert next(results)[1] == [Finished(0)]
    with pytest.raises(RunError, match=r"10 workers were lost .* \(out of memory\).*--workers"):
        list(results)
    assert pool.starts == 2 + 9 + 9  # the tenth loss in a row is the first without a replacement
    assert pool.closed


def test_a_worker_that_is_unable_stops_the_pool() -> None:
    class UnablePool(ScriptedPool):
        def next_event(self) -> tuple[int, Answer | Lost]:
            return 0, Unable("this task is broken")

    pool = UnablePool(iter(()))
    with pytest.raises(RunError, match=r"^this task is broken$"):
        list(work_through(pool, 1, units(1)))
    assert pool.closed


def test_the_next_unit_is_given_before_the_caller_gets_the_last_one() -> None:
    pool = ScriptedPool(iter(()))
    results = work_through(pool, 1, units(9))
    assert next(results)[0].number == 0
    assert pool.busy[0].number == 1
    results.close()  # type: ignore[attr-defined]
    assert pool.closed


def test_units_are_read_one_ahead_of_the_workers() -> None:
    pulled: list[int] = []

    def stream() -> Iterator[Unit]:
        for unit in units(20):
            pulled.append(unit.number)
            yield unit

    for unit, _ in work_through(ScriptedPool(iter(())), 2, stream()):
        assert len(pulled) <= unit.number + 4  # two busy ones and the next one
