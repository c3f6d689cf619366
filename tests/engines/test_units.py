"""How items become units, how units are shared out, and what comes of items that fail."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import pytest
import torch

from unmemorize import RunError
from unmemorize.engines import Failed, Finished, Shard, attempt_each, units_of


def test_units_hold_consecutive_items() -> None:
    units = list(units_of(((index, str(index)) for index in range(10, 17)), 3))
    assert [unit.number for unit in units] == [0, 1, 2]
    assert [unit.indices for unit in units] == [(10, 11, 12), (13, 14, 15), (16,)]
    assert [unit.items for unit in units] == [("10", "11", "12"), ("13", "14", "15"), ("16",)]
    assert list(units_of((), 3)) == []


def test_only_what_must_fail_fails() -> None:
    calls: list[tuple[int, ...]] = []

    def work(items: Sequence[int]) -> list[Finished]:
        calls.append(tuple(items))
        if 5 in items:
            raise ValueError("five\nis too much")
        return [Finished(item) for item in items]

    assert attempt_each(work, (3, 4, 5, 6, 7)) == [
        Finished(3),
        Finished(4),
        Failed("ValueError: five"),
        Finished(6),
        Finished(7),
    ]
    assert calls == [(3, 4, 5, 6, 7), (3, 4), (5, 6, 7), (5,), (6, 7)]


def test_what_fills_the_memory_is_freed_before_the_halves_are_tried() -> None:
    class Tensor:
        pass

    allocated: list[weakref.ref[Tensor]] = []

    def work(items: Sequence[int]) -> list[int]:
        assert not any(reference() for reference in allocated)
        tensor = Tensor()
        allocated.append(weakref.ref(tensor))
        if len(items) > 2:
            raise MemoryError("at most two fit")
        return list(items)

    assert attempt_each(work, range(8)) == list(range(8))
    assert len(allocated) == 7


def test_a_failing_device_is_an_error() -> None:
    def work(_items: Sequence[int]) -> list[int]:
        raise torch.AcceleratorError("an illegal memory access was encountered\nand more")

    with pytest.raises(RunError, match=r"the device fails: an illegal memory access .*resumes"):
        attempt_each(work, [1, 2])


def test_each_unit_belongs_to_one_shard() -> None:
    shards = [Shard.parse(f"{number}/3") for number in (1, 2, 3)]
    for unit in range(10):
        assert sum(unit in shard for shard in shards) == 1
    assert [unit for unit in range(7) if unit in shards[0]] == [0, 3, 6]
    assert str(shards[1]) == "2-of-3"


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/3/5", "", "1/0", "-1/3"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(RunError, match=r"not a share of a whole. Write 1/4"):
        Shard.parse(text)
