"""Files of records: what is written, what is read, and what damaged or torn lines do."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from limits import limited

from tasks import AnyRun
from unmemorize import Run, RunError
from unmemorize.runs import Inputs


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(tmp_path / "run", AnyRun(), inputs=Inputs(fingerprint="f"), model="m", items=10)


def test_records_are_read_in_the_order_of_the_items(run: Run) -> None:
    for shard, indices in (("", (4, 0)), ("2-of-2", (3, 1))):
        with run.writer("units", shard) as writer:
            writer.append({index: {"value": index} for index in indices})
    with run.writer("units") as writer:
        writer.append({0: {"value": "again"}, 2: {"error": "x"}, 5: {"error": "y"}})
        writer.append({2: {"value": 2}})
    assert [(index, record["value"]) for index, record in run.stream("units")] == [
        (0, "again"),
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 4),
    ]
    assert run.failures("units") == {5: "y"}
    assert list(run.done("units", 7)) == [1, 1, 1, 1, 1, 0, 0]
    assert list(run.done("units", 2)) == [1, 1]
    assert run.records("units") == dict(run.stream("units"))
    assert list(run.stream("others")) == []


def test_typed_records_are_checked(run: Run) -> None:
    run.append("units", 2, {"number": 7, "name": "x"})
    run.append("units", 0, {"number": 5})
    typed = dict(run.typed("units", AnyRun, "Start again."))
    assert list(typed.items()) == [(0, AnyRun(5)), (2, AnyRun(7, "x"))]
    run.append("units", 1, {"number": "seven"})
    with pytest.raises(RunError, match=r"damaged record of units .*number.*Start again\."):
        dict(run.typed("units", AnyRun, "Start again."))


def test_an_item_that_fails_after_it_was_finished_stays_finished(run: Run) -> None:
    """Another shard may have done it, for example."""
    run.append("units", 0, {"value": 1})
    run.append("units", 0, {"error": "x"})
    assert run.failures("units") == {}
    assert run.records("units") == {0: {"value": 1}}
    assert list(run.done("units", 1)) == [1]


def test_a_long_torn_line_is_cut_off(run: Run) -> None:
    run.append("units", 0, {"a": 1})
    path = run.folder / "units.jsonl"
    with path.open("ab") as file:
        file.write(b"x" * 3_000_000)
    run.append("units", 1, {"a": 2})
    assert run.records("units") == {0: {"a": 1}, 1: {"a": 2}}
    path.write_bytes(b"torn")
    run.append("units", 2, {"a": 3})
    assert run.records("units") == {2: {"a": 3}}


def test_a_torn_last_line_does_not_count(run: Run) -> None:
    run.append("units", 0, {"a": 1})
    path = run.folder / "units.jsonl"
    path.write_bytes(path.read_bytes() + b'{"index": 1, "a": 2}')  # whole but for its end
    torn = path.read_bytes()
    assert run.records("units") == {0: {"a": 1}}
    assert list(run.stream("units")) == [(0, {"a": 1})]
    assert list(run.done("units", 2)) == [1, 0]
    assert path.read_bytes() == torn  # reading changes nothing
    run.append("units", 1, {"a": 3})
    assert run.records("units") == {0: {"a": 1}, 1: {"a": 3}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{]", "line 2: damaged"),
        ('{"a": 1}', "line 2: a record without an index"),
        ('{"index": "1"}', "line 2: a record without an index"),
        ('{"index": true}', "line 2: a record without an index"),
    ],
)
def test_damage_elsewhere_is_an_error(run: Run, line: str, message: str) -> None:
    content = '{"index": 0}\n' + line + '\n{"index": 1}\n'
    (run.folder / "units.jsonl").write_text(content)
    readers: list[Callable[[], object]] = [
        lambda: run.records("units"),
        lambda: run.failures("units"),
        lambda: run.done("units", 2),
        lambda: list(run.stream("units")),
    ]
    for read in readers:
        with pytest.raises(RunError, match=message):
            read()


def test_a_full_disk_is_an_error_and_keeps_what_was_there(run: Run) -> None:
    run.append("units", 0, {"a": 1})
    with limited(resource.RLIMIT_FSIZE, 2000):
        with pytest.raises(RunError, match="Free some space; the same command resumes from here"):
            run.append("units", 1, {"filling": "x" * 5000})
        with pytest.raises(RunError, match="Free some space"):
            run.write("report.html", "x" * 5000)
    assert run.records("units") == {0: {"a": 1}}
    assert len((run.folder / "units.jsonl").read_bytes().splitlines()) == 1
    assert sorted(path.name for path in run.folder.glob("[!.]*")) == [
        "manifest.json",
        "units.jsonl",
    ]


def test_a_file_that_cannot_be_opened_is_left_as_it_is(run: Run) -> None:
    """A failing open once emptied the file."""
    run.append("units", 0, {"a": 1})
    with (
        limited(resource.RLIMIT_NOFILE, 3),
        pytest.raises(RunError, match="cannot be written"),
    ):
        run.append("units", 1, {"a": 2})
    assert run.records("units") == {0: {"a": 1}}


def test_more_files_than_may_be_open(run: Run) -> None:
    count = 150
    for number in range(count):
        with run.writer("squares", f"{number + 1}-of-{count}") as writer:
            writer.append({number + count: {"square": number}, number: {"square": -number}})
    with limited(resource.RLIMIT_NOFILE, len(list(Path("/dev/fd").iterdir())) + 80):
        squares = [(index, record["square"]) for index, record in run.stream("squares")]
    expected = [(index, -index) for index in range(count)]
    assert squares == expected + [(index + count, index) for index in range(count)]


def test_values_that_json_cannot_hold_are_refused(run: Run) -> None:
    with run.writer("units") as writer, pytest.raises(RunError, match="JSON compliant"):
        writer.append({0: {"score": float("nan")}})
    assert run.records("units") == {}


def test_records_carry_the_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1790000000.1234)
    run.append("units", 3, {"text": "é <b>"})
    line = (run.folder / "units.jsonl").read_text(encoding="utf-8")
    assert line == '{"index": 3, "at": 1790000000.123, "text": "é <b>"}\n'
    assert json.loads(line)["index"] == 3


def test_one_process_writes_a_file(run: Run) -> None:
    with run.writer("units") as writer:
        with pytest.raises(RunError, match=r"units.jsonl: another process writes it.*--shard"):
            run.writer("units")
        with run.writer("units", "1-of-2"), run.writer("others"):
            writer.append({0: {"a": 1}})
    with run.writer("units") as writer:  # the lock is gone
        writer.append({1: {"a": 1}})
    assert sorted(run.records("units")) == [0, 1]
    assert [path.name for path in run.files("units")] == ["units.jsonl", "units.1-of-2.jsonl"]


def test_the_lock_of_a_killed_process_is_no_obstacle(run: Run) -> None:
    (run.folder / ".units.jsonl.lock").touch()
    run.append("units", 0, {"a": 1})
    assert run.records("units") == {0: {"a": 1}}


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(run: Run, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """As some network file systems are; nothing is left that would be taken for a lock later."""

    def no_lock(_descriptor: int, _operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_lock)
    for index in range(2):
        run.append("units", index, {"a": 1})
    assert sorted(run.records("units")) == [0, 1]
    with run.writer("units"), run.writer("units"):
        pass  # nothing keeps the second one out
