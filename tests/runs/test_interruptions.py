"""Commands that are killed or stopped: the same command ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from interruptible import RECORD, WORKER, Child, child, command, handles, wait_for_ends

from conftest import PLANTED_PROMPT, PROMPTS, planted_pipeline
from tasks import AnyRun
from unmemorize import NoiseSettings, Run, calibrate_threshold, compute_statistics
from unmemorize.detection import Calibration
from unmemorize.localization import read_localizations
from unmemorize.runs import Inputs

COUNT = 9
DURATIONS = {"seconds", "spent"}
"""What differs from run to run."""


@dataclass(frozen=True)
class Job:
    """A model that has memorized a third of some prompts, in files."""

    folder: Path

    def model(self) -> list[str]:
        return ["--model", str(self.folder / "model"), "--device", "cpu", "--local-files-only"]

    def localize(self, run: Path, *options: str) -> list[str]:
        files = [
            *("--statistics", str(self.folder / "s.safetensors")),
            *("--threshold", str(self.folder / "t.json")),
            *("--prompts", str(self.folder / "prompts.txt")),
        ]
        return ["localize", *self.model(), *files, "-o", str(run), *options]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    pipe = planted_pipeline()
    pipe.save_pretrained(folder / "model")
    compute_statistics(pipe, PROMPTS).save(folder / "s.safetensors")
    calibration = Calibration(deviations=3)
    settings = NoiseSettings(seeds=4)
    threshold = calibrate_threshold(
        pipe, PROMPTS, detector="seed-similarity", settings=settings, calibration=calibration
    )
    threshold.save(folder / "t.json")
    others = [f"{'abcdefghijklmnopq'[index % 17]} word" for index in range(COUNT)]
    mixed = [PLANTED_PROMPT if index % 3 == 0 else other for index, other in enumerate(others)]
    (folder / "prompts.txt").write_text("\n".join(mixed))
    return Job(folder)


def finish(arguments: list[str], output: Path) -> str:
    """Run a command to its end and return what it printed."""
    with child(command, *arguments, output=output) as process:
        assert process.finish() == 0, process.output()
        return process.output()


def lines(run: Path) -> list[dict[str, Any]]:
    """All whole lines of records."""
    texts = [
        text
        for path in run.glob("localizations*.jsonl")
        for text in path.read_text().splitlines(keepends=True)
    ]
    return [json.loads(text) for text in texts if text.endswith("\n")]


def contents(run: Path) -> dict[int, str]:
    """The records, without the time that they took."""

    def timeless(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: timeless(inner) for key, inner in value.items() if key not in DURATIONS}

    records = Run.load(run).records("localizations")
    return {
        index: json.dumps(timeless(record), sort_keys=True) for index, record in records.items()
    }


@pytest.fixture(scope="module")
def undisturbed(job: Job) -> dict[int, str]:
    run = job.folder / "undisturbed"
    finish(job.localize(run), job.folder / "output")
    localizations = read_localizations(Run.load(run))
    assert len(localizations) == COUNT
    assert len({record.memorized for record in localizations.values()}) == 2
    return contents(run)


def check(run: Path, expected: dict[int, str]) -> None:
    """Check that no record is lost, none is there twice, and each is what it should be."""
    assert contents(run) == expected
    assert sorted(line["index"] for line in lines(run)) == list(range(COUNT))
    assert (run / "neurons.json").exists()


def content_of(file: str | Path) -> bytes:
    """A file of /proc; nothing of a process that has just ended."""
    try:
        return Path(file).read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def descendants(process: int) -> list[int]:
    children = [
        int(pid)
        for file in Path(f"/proc/{process}/task").glob("*/children")
        for pid in content_of(file).split()
    ]
    return children + [inner for pid in children for inner in descendants(pid)]


def workers_of(process: int) -> list[int]:
    """Worker processes or Ray actors below a process."""
    return [
        pid
        for pid in descendants(process)
        if any(
            name in content_of(f"/proc/{pid}/cmdline")
            for name in (b"multiprocessing.spawn", b"ray::Actor")
        )
    ]


def interrupt(*processes: int) -> None:
    """Press Ctrl-C, which a terminal sends to all processes."""
    for process in processes:
        with suppress(ProcessLookupError):  # the first one has stopped it already
            os.kill(process, signal.SIGINT)


def test_a_killed_worker_and_then_a_killed_command(
    job: Job, undisturbed: dict[int, str], tmp_path: Path
) -> None:
    """The worker is replaced; the workers end with the command; the same command resumes."""
    run = tmp_path / "run"
    arguments = job.localize(run, "--workers", "2")
    with child(command, *arguments, output=tmp_path / "output") as process:
        assert process.reach(RECORD, 2) == 2
        victim = workers_of(process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        process.go_on()
        assert process.reach(WORKER) == 1, "the worker is not replaced"
        process.go_on()
        assert process.reach(RECORD) == 1
        workers = handles(workers_of(process.pid))
        assert len(workers) == 2
        assert victim not in workers
        process.kill()
        assert wait_for_ends(workers)
    assert 3 <= len(lines(run)) < COUNT
    finish(job.localize(run), tmp_path / "output")
    check(run, undisturbed)


def test_ctrl_c_stops_all_processes_and_says_how_to_resume(job: Job, tmp_path: Path) -> None:
    arguments = job.localize(tmp_path / "run", "--workers", "1")
    with child(command, *arguments, output=tmp_path / "output") as process:
        assert process.reach(RECORD, 1) == 1
        workers = handles(workers_of(process.pid))
        interrupt(process.pid, *workers)
        assert process.wait() == 130
        assert wait_for_ends(workers)
        output = process.output()
    assert "the same command" in output
    assert "Traceback" not in output
    assert "leaked" not in output


def test_ctrl_c_while_workers_start_shows_no_traceback(job: Job, tmp_path: Path) -> None:
    arguments = job.localize(tmp_path / "run", "--workers", "1")
    with child(command, *arguments, output=tmp_path / "output") as process:
        assert process.reach(WORKER) == 1
        workers = handles(descendants(process.pid))  # it may not even have its own name yet
        assert len(workers) == 1
        interrupt(process.pid, *workers)
        assert process.wait() == 130
        assert wait_for_ends(workers)
        assert "Traceback" not in process.output()


def test_shards_of_two_programs_are_merged(
    job: Job, undisturbed: dict[int, str], tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    """Two programs work at the same time in one folder, and a third in a folder of its own."""
    run, elsewhere, merged = (tmp_path / name for name in ("run", "elsewhere", "merged"))
    with (
        child(command, *job.localize(run, "--shard", "1/3"), output=tmp_path / "1") as first,
        child(command, *job.localize(run, "--shard", "2/3"), output=tmp_path / "2") as second,
    ):
        assert first.reach(RECORD) == second.reach(RECORD) == 1  # both hold their files open
        for process in (first, second):
            process.go_on()
            assert process.finish() == 0, process.output()
            assert "the other shards do the rest" in process.output()
    finish(job.localize(elsewhere, "--shard", "3/3"), tmp_path / "3")
    assert cli("runs", "merge", run, elsewhere, "-o", merged)[0] == 0
    names = [path.name for path in merged.glob("*.jsonl")]
    assert names.count("localizations.jsonl") == 1
    finish(job.localize(merged), tmp_path / "4")
    check(merged, undisturbed)
    code, out, _ = cli("status", merged)
    assert (code, str(COUNT) in out, "slowest localizations" in out) == (0, True, True)


@pytest.mark.parametrize(
    ("name", "options"),
    [("statistics", ["--batch", "2"]), ("threshold", ["--seeds", "3"])],
)
def test_killed_statistics_and_thresholds_are_resumed(
    job: Job, tmp_path: Path, name: str, options: list[str]
) -> None:
    """The result has the same bytes as an undisturbed one."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))

    def arguments(output: str) -> list[str]:
        prompts = ["--prompts", str(tmp_path / "prompts.txt"), "-o", str(tmp_path / output)]
        return [name, *job.model(), *options, *prompts]

    with child(command, *arguments("disturbed"), output=tmp_path / "o1") as process:
        assert process.reach(RECORD, 2) == 2
        process.kill()
    assert not (tmp_path / "disturbed").exists()
    with child(command, *arguments("disturbed"), output=tmp_path / "o2") as process:
        steps = 0
        while process.next_step() == RECORD:
            steps += 1
            process.go_on()
        assert process.wait() == 0, process.output()
    finish(arguments("undisturbed"), tmp_path / "o3")
    assert steps == {"statistics": 1, "threshold": 4}[name]
    first, second = ((tmp_path / file).read_bytes() for file in ("disturbed", "undisturbed"))
    assert first == second
    assert not list(tmp_path.glob(".*.partial"))


def write_records(folder: Path) -> None:
    run = Run.load(folder)
    for index in range(len(run.records("units")), 400):
        run.append("units", index, {"value": index * index, "filling": "x" * 500})


def test_a_kill_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    """At any moment: the process does not wait when it is killed."""
    inputs = Inputs(fingerprint="f")
    folder = Run.open(tmp_path / "run", AnyRun(), inputs=inputs, model="m", items=400).folder
    for stop in (3, 40):
        before = len(Run.load(folder).records("units"))
        with child(write_records, folder, output=tmp_path / "output") as process:
            process.go_on(400)
            for _ in range(stop):
                assert process.next_step() == RECORD
            process.kill()
        assert before + stop <= len(Run.load(folder).records("units")) < 400
    with child(write_records, folder, output=tmp_path / "output") as process:
        assert process.finish() == 0
    assert Run.load(folder).records("units") == {
        index: {"value": index * index, "filling": "x" * 500} for index in range(400)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "times", "options"),
    [
        ("main", 12, ()),
        ("main", 12, ("--workers", "2")),
        ("main", 4, ("--workers", "2", "--engine", "ray")),
        ("worker", 12, ("--workers", "2")),
        ("worker", 10, ("--workers", "2", "--engine", "ray")),
    ],
)
def test_killed_often(
    job: Job,
    undisturbed: dict[int, str],
    tmp_path: Path,
    victim: str,
    times: int,
    options: tuple[str, ...],
) -> None:
    """Fifty times in all, at random moments; a run that is complete is followed by another."""
    rng, killed, rounds = random.Random(len(options)), 0, 0
    for _ in range(3 * times):
        run = tmp_path / str(rounds)
        output = tmp_path / "output"
        with child(command, *job.localize(run, *options), output=output) as process:
            killed += disturb(process, victim, rng)
        if len(lines(run)) == COUNT:
            finish(job.localize(run, *options), output)
            check(run, undisturbed)
            rounds += 1
        if killed == times:
            break
    print(f"\n{victim} killed {killed} times {' '.join(options)}")
    assert killed == times
    finish(job.localize(tmp_path / str(rounds), *options), tmp_path / "output")
    check(tmp_path / str(rounds), undisturbed)


def disturb(process: Child, victim: str, rng: random.Random) -> bool:
    """Kill a running command or one of its workers after some of its records.

    The command does not wait meanwhile, so it is killed in the middle of anything.

    Returns:
        Whether it was killed. It may be over before.
    """
    process.go_on(100)
    wanted = rng.randrange(1, COUNT // 2)
    records = 0
    while records < wanted:
        step = process.next_step()
        if step is None:
            return False
        records += step == RECORD
    if victim == "main":
        workers = handles(workers_of(process.pid))
        process.kill()
        assert wait_for_ends(workers)
        return True
    workers_now = workers_of(process.pid)
    if not workers_now:
        return False
    with suppress(ProcessLookupError):
        os.kill(rng.choice(workers_now), signal.SIGKILL)
    assert process.finish() == 0, process.output()
    return True
