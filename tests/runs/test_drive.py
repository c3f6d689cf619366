"""What `drive` does and does not do again."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from limits import limited

from conftest import make_pipeline
from tasks import AnyRun, Squares
from unmemorize import (
    Model,
    ModelError,
    Neurons,
    Run,
    RunError,
    UnfinishedError,
    switch_off,
    switch_on,
)
from unmemorize.engines import Execution, Finished, Outcome, Shard, Task, Unit
from unmemorize.runs import Inputs, _drive, drive, drive_to_end


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(make_pipeline())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(
        tmp_path / "run", AnyRun(), inputs=Inputs(fingerprint="f"), model="m", items=100
    )


def squares_in(run: Run) -> dict[int, int]:
    return {index: record["square"] for index, record in run.records("squares").items()}


def line_count(run: Run) -> int:
    return sum(len(file.read_text().splitlines()) for file in run.files("squares"))


class Watched(Squares):
    """Squares that remember which items were worked on together."""

    def __init__(self, size: int) -> None:
        super().__init__(size=size)
        object.__setattr__(self, "seen", [])

    seen: list[tuple[int, ...]]

    def _work(self, items: Sequence[int]) -> list[Finished]:
        self.seen.append(tuple(items))
        return super()._work(items)


def test_nothing_is_put_on_record_with_neurons_off(model: Model, run: Run) -> None:
    """It would pass for the model's own."""
    switch_off(model, Neurons({next(iter(model.value_layers)): [0]}))
    with pytest.raises(ModelError, match=r"Call switch_on\(pipe\) first"):
        drive(run, model, Squares(), [(1, 1)], 2)
    assert not squares_in(run)
    switch_on(model)
    assert drive(run, model, Squares(), [(1, 1)], 2).complete


def test_a_stream_is_read_only_as_fast_as_it_is_worked_on(model: Model, run: Run) -> None:
    pulled: list[int] = []

    def stream() -> Iterator[tuple[int, int]]:
        for index in range(30):
            pulled.append(index)
            yield index, index

    ahead: list[int] = []
    execution = Execution(progress=lambda done, _: ahead.append(len(pulled) - done))
    assert drive(run, model, Squares(size=4), stream(), 30, execution).complete
    assert len(ahead) == 9
    assert max(ahead) == 0


def test_a_unit_is_whole_if_any_of_its_items_is_missing(model: Model, run: Run) -> None:
    """Results depend by rounding on what is computed together."""
    run.append("squares", 1, {"square": -1})
    task = Watched(size=3)
    tally = drive(run, model, task, enumerate(range(6)), 6)
    assert task.seen == [(0, 1, 2), (3, 4, 5)]
    assert squares_in(run) == {0: 0, 1: -1, 2: 4, 3: 9, 4: 16, 5: 25}
    assert (tally.done, tally.total, line_count(run)) == (6, 6, 6)


def test_only_the_items_of_a_call_count(model: Model, run: Run) -> None:
    """An earlier call may have been about others."""
    for index in (0, 3, 4):
        run.append("squares", index, {"square": index**2})
    seen: list[tuple[int, int | None]] = []
    execution = Execution(progress=lambda *at: seen.append(at))
    tally = drive(run, model, Squares(), [(1, 1), (3, 3), (5, -1)], 6, execution)
    assert (tally.done, list(tally.failed), tally.total, tally.complete) == (2, [5], 3, False)
    assert seen == [(1, 3), (2, 3), (2, 3)]
    tally = drive(run, model, Squares(), [(4, 4)], 5)
    assert (tally.done, tally.total, tally.complete) == (1, 1, True)


def test_a_stage_over_a_stream_counts_its_own_items(model: Model, run: Run) -> None:
    """Each budget of an attack is a stage. It seemed to be a part of all budgets."""
    seen: list[tuple[int, int | None]] = []
    execution = Execution(progress=lambda *at: seen.append(at))
    for first in (0, 1):
        stream = ((index, index) for index in (first, 2 + first))
        indices = range(first, 4, 2)
        drive_to_end(run, model, Squares(), stream, indices, 4, execution, "squaring")
    assert seen == [(0, 2), (1, 2), (2, 2)] * 2
    assert squares_in(run) == {0: 0, 1: 1, 2: 4, 3: 9}


def test_a_stage_that_others_rest_on_ends_at_a_failure(model: Model, run: Run) -> None:
    items = [(0, 2), (1, -1), (2, 3)]
    with pytest.raises(RunError, match=r"squaring: number 1 fails .*negative number.*tries again"):
        drive_to_end(run, model, Squares(), items, range(3), 3, Execution(), "squaring")
    assert sorted(run.records("squares")) == [0, 2]
    drive_to_end(run, model, Squares(), [(0, 2), (2, 3)], [0, 2], 3, Execution(), "squaring")


@pytest.mark.parametrize("patience", [0.0, 0.2])
def test_a_stage_ends_where_other_shards_do_nothing(
    model: Model, run: Run, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    monkeypatch.setattr(_drive, "_POLL", 0.05)
    monkeypatch.setattr("unmemorize.runs._drive.time.sleep", looks.append)
    monkeypatch.setattr("unmemorize.runs._drive.time.monotonic", lambda: sum(looks))
    execution = Execution(shard=Shard(1, 2), patience=patience)
    with pytest.raises(UnfinishedError, match="squaring: 2 of 4 are left to other shards"):
        drive_to_end(
            run, model, Squares(), list(enumerate(range(4))), range(4), 4, execution, "squaring"
        )
    assert sorted(run.records("squares")) == [0, 2]
    assert len(looks) == patience / 0.05


def test_a_stage_waits_for_other_shards_as_long_as_they_get_on(
    model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record is news, so all of them together may take longer than the patience."""
    now, seen = [0.0], list[tuple[int, int | None]]()
    left = [3, 5, 1]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if int(now[0]) % 2 == 0:
            index = left.pop()
            with run.writer("squares", "2-of-2") as writer:
                writer.append({index: {"square": -index}})

    monkeypatch.setattr(_drive, "_POLL", 1.0)
    monkeypatch.setattr("unmemorize.runs._drive.time.sleep", sleep)
    monkeypatch.setattr("unmemorize.runs._drive.time.monotonic", lambda: now[0])
    execution = Execution(shard=Shard(1, 2), patience=3.0, progress=lambda *at: seen.append(at))
    drive_to_end(
        run, model, Squares(), list(enumerate(range(6))), range(6), 6, execution, "squaring"
    )
    assert not left
    assert now == [6.0]
    assert seen[-3:] == [(3, 6), (4, 6), (5, 6)]


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_stage_ends_where_another_shard_fails(
    model: Model, run: Run, meanwhile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the other shard, it may fail before this one has come to this stage."""

    def fail(*_: object) -> None:
        with run.writer("squares", "2-of-2") as writer:
            writer.append({1: {"error": "out of luck."}})

    monkeypatch.setattr("unmemorize.runs._drive.time.sleep", fail)
    if not meanwhile:
        fail()
    execution = Execution(shard=Shard(1, 2), patience=60.0)
    with pytest.raises(RunError, match=r"squaring: number 1 fails \(out of luck\)\. .*tries again"):
        drive_to_end(run, model, Squares(), [(0, 0), (1, 1)], [0, 1], 2, execution, "squaring")
    assert sorted(run.records("squares")) == [0]


def test_a_stage_waits_for_shards_that_try_again(
    model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failures of earlier calls count no more, nor do those of items of another call."""
    monkeypatch.setattr("unmemorize.runs._records.time.time", lambda: run.opened - 60)
    run.append("squares", 1, {"error": "out of luck"})
    monkeypatch.undo()
    run.append("squares", 2, {"error": "another call"})

    def finish(_: float) -> None:
        with run.writer("squares", "2-of-2") as writer:
            writer.append({1: {"square": 1}})

    monkeypatch.setattr("unmemorize.runs._drive.time.sleep", finish)
    execution = Execution(shard=Shard(1, 2), patience=60.0)
    drive_to_end(run, model, Squares(), [(0, 0), (1, 1)], [0, 1], 3, execution, "squaring")
    assert squares_in(run) == {0: 0, 1: 1}


def test_finished_units_are_not_done_again_and_failed_ones_are(model: Model, run: Run) -> None:
    seen: list[tuple[int, int | None]] = []
    execution = Execution(progress=lambda *at: seen.append(at))
    items = [1, -2, 3, 4, 5, 6]
    tally = drive(run, model, Squares(size=2), enumerate(items), 6, execution)
    assert (tally.done, tally.complete) == (5, False)
    assert tally.failed == run.failures("squares") == {1: "ValueError: a negative number"}
    assert seen == [(0, 6), (1, 6), (3, 6), (5, 6)]
    items[1] = 2
    task = Watched(size=2)
    again = drive(run, model, task, enumerate(items), 6)
    assert task.seen == [(1, 2)]
    assert (again.complete, again.failed, run.failures("squares")) == (True, {}, {})
    assert squares_in(run) == {index: (index + 1) ** 2 for index in range(6)}


def test_nothing_is_left_to_do(model: Model, run: Run) -> None:
    for expected in ([(1,), (2,)], []):
        task = Watched(size=1)
        assert drive(run, model, task, enumerate([1, 2]), 2).complete
        assert task.seen == expected
    assert line_count(run) == 2


def test_items_may_have_gaps(model: Model, run: Run) -> None:
    """Sets of images are numbered as the prompts are, of which they show a part."""
    items = [(3, 30), (7, 70)]
    seen: list[tuple[int, int | None]] = []
    execution = Execution(progress=lambda *at: seen.append(at))
    tally = drive(run, model, Squares(size=2), items, 8, execution)
    assert (tally.done, tally.total, tally.complete) == (2, 2, True)
    assert squares_in(run) == {3: 900, 7: 4900}
    assert seen == [(0, 2), (2, 2)]


def test_outcomes_that_come_in_another_order_belong_to_their_units(model: Model, run: Run) -> None:
    class Backwards:
        def outcomes(
            self, model: Model, task: Task, units: Iterator[Unit]
        ) -> Iterator[tuple[Unit, list[Outcome]]]:
            work = task.prepare(model)
            for unit in reversed(list(units)):
                yield unit, list(work(unit.items))

    execution = Execution(engine=Backwards())
    assert drive(run, model, Squares(size=2), enumerate(range(5)), 5, execution).complete
    assert squares_in(run) == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}
    assert (run.folder / "3.txt").read_bytes() == b"x"


def test_shards_share_the_units(model: Model, run: Run) -> None:
    seen: list[tuple[int, ...]] = []
    done = []
    for number in (1, 2, 3):
        task = Watched(size=2)
        execution = Execution(shard=Shard(number, 3))
        tally = drive(run, model, task, enumerate(range(11)), 11, execution)
        seen += task.seen
        done.append((tally.done, tally.total, tally.complete))
    assert seen == [(0, 1), (6, 7), (2, 3), (8, 9), (4, 5), (10,)]
    assert done == [(4, 11, False), (8, 11, False), (11, 11, True)]
    assert squares_in(run) == {number: number * number for number in range(11)}
    assert [file.name for file in run.files("squares")] == [
        f"squares.{number}-of-3.jsonl" for number in (1, 2, 3)
    ]


def test_a_full_disk_loses_only_the_unit_in_work(model: Model, run: Run) -> None:
    with (
        limited(resource.RLIMIT_FSIZE, 1000),
        pytest.raises(RunError, match="Free some space; the same command resumes from here"),
    ):
        drive(run, model, Squares(size=2), enumerate(range(100)), 100)
    recorded = squares_in(run)
    assert 0 < len(recorded) < 100
    assert len(recorded) % 2 == 0
    assert drive(run, model, Squares(size=2), enumerate(range(100)), 100).complete
    assert squares_in(run) == {number: number * number for number in range(100)}
    assert line_count(run) == 100


def test_a_failing_device_stops_the_run(
    model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Squares, items: object) -> None:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    monkeypatch.setattr(Squares, "_work", fail)
    with pytest.raises(RunError, match="the device fails: an illegal memory access"):
        drive(run, model, Squares(), enumerate([1, 2]), 2)
    assert run.failures("squares") == {}


def test_what_another_process_did_meanwhile_is_not_done_again(
    model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that takes over from another reads the records when the other one is gone."""
    writer = Run.writer

    def later(self: Run, name: str, shard: str = "") -> object:
        monkeypatch.setattr(Run, "writer", writer)
        self.append(name, 1, {"square": 1, "pid": 0})
        return writer(self, name, shard)

    monkeypatch.setattr(Run, "writer", later)
    tally = drive(run, model, Squares(), enumerate([0, 1, 2]), 3)
    assert (tally.complete, run.records("squares")[1]["pid"]) == (True, 0)
    assert line_count(run) == 3


def test_an_item_whose_result_is_no_json_fails_alone(
    model: Model, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {1: float("nan"), 2: "\ud800", 3: 9}
    monkeypatch.setattr(
        Squares,
        "_work",
        lambda _self, items: [Finished({"square": results[item]}) for item in items],
    )
    tally = drive(run, model, Squares(size=3), enumerate([1, 2, 3]), 3)
    assert (squares_in(run), tally.done) == ({2: 9}, 1)
    assert list(run.failures("squares")) == list(tally.failed) == [0, 1]
    assert "cannot be put on record" in tally.failed[0]
    with pytest.raises(RunError, match=r"squares\.jsonl: a record cannot be written"):
        run.append("squares", 0, {"square": float("inf")})
    assert line_count(run) == 3
