"""Commands that are killed, stopped, or run out of disk: what was finished stays, and the same command ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import PLANTED_PROMPT, PROMPTS, make_pipeline, plant_neuron
from unmemorize import Model, NoiseSettings, Run, calibrate_threshold, compute_statistics
from unmemorize.localization import read_localizations

COMMAND = "from unmemorize.cli import run; run()"
COUNT = 20
SECONDS = {"seconds", "spent"}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A model that has memorized a third of the prompts, and the command that localizes in it."""
    folder = tmp_path_factory.mktemp("job")
    pipe = make_pipeline()
    plant_neuron(pipe, next(iter(Model(pipe).value_layers)), 3)
    pipe.save_pretrained(folder / "model")
    compute_statistics(pipe, PROMPTS).save(folder / "s.safetensors")
    calibrate_threshold(pipe, PROMPTS, settings=NoiseSettings(seeds=4), deviations=3).save(
        folder / "t.json"
    )
    others = [f"{'abcdefghijklmnopq'[index % 17]} word" for index in range(COUNT)]
    mixed = [PLANTED_PROMPT if index % 3 == 0 else other for index, other in enumerate(others)]
    (folder / "prompts.txt").write_text("\n".join(mixed))
    files = [
        "--statistics",
        folder / "s.safetensors",
        "--threshold",
        folder / "t.json",
        "--prompts",
        folder / "prompts.txt",
    ]
    return folder, [
        "localize",
        "--model",
        str(folder / "model"),
        "--device",
        "cpu",
        "--local-files-only",
        *map(str, files),
    ]


@contextmanager
def started(
    job: tuple[Path, list[str]], run: Path, *options: str
) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, on one thread so that results are the same to the last bit."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", COMMAND, *job[1], "-o", str(run), *options]
    with subprocess.Popen(
        arguments, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(job: tuple[Path, list[str]], run: Path, *options: str) -> None:
    with started(job, run, *options) as process:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def lines(run: Path) -> list[dict[str, Any]]:
    """All whole lines of records."""
    texts = [
        text
        for path in run.glob("localizations*.jsonl")
        for text in path.read_text().splitlines(keepends=True)
    ]
    return [json.loads(text) for text in texts if text.endswith("\n")]


def contents(run: Path) -> dict[int, str]:
    """What was found for each prompt, without the time that it took."""

    def timeless(value: Any) -> Any:
        return (
            {key: timeless(part) for key, part in value.items() if key not in SECONDS}
            if isinstance(value, dict)
            else value
        )

    return {
        index: json.dumps(timeless(record), sort_keys=True)
        for index, record in Run.load(run).records("localizations").items()
    }


def seen(file: str | Path) -> bytes:
    """A file of /proc; nothing of a process that has just ended."""
    try:
        return Path(file).read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def descendants(process: int) -> list[int]:
    found = []
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, seen(file).split()):
            found += [child, *descendants(child)]
    return found


def workers_of(process: int) -> list[int]:
    """Worker processes or Ray actors below a process."""
    named = ((child, seen(f"/proc/{child}/cmdline")) for child in descendants(process))
    return [
        child for child, name in named if b"multiprocessing.spawn" in name or b"ray::_Actor" in name
    ]


def interrupt(*processes: int) -> None:
    """Ctrl-C, as a terminal hands it to all; the main process may have ended a worker before its turn comes."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGINT)


def wait_for(condition: Any, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(job: tuple[Path, list[str]]) -> dict[int, str]:
    finish(job, job[0] / "undisturbed")
    found = read_localizations(Run.load(job[0] / "undisturbed"))
    assert len(found) == COUNT
    assert len({record.memorized for record in found.values()}) == 2
    return contents(job[0] / "undisturbed")


def check(run: Path, expected: dict[int, str]) -> None:
    assert contents(run) == expected
    assert sorted(line["index"] for line in lines(run)) == list(
        range(COUNT)
    )  # none twice, none lost
    assert (run / "neurons.json").exists()


def disturb(
    job: tuple[Path, list[str]], run: Path, victim: str, rng: random.Random, *options: str
) -> bool:
    """Start the command and kill it, or one of its workers, at a random moment of its work; a killed worker must be replaced.

    Whether that was done: a run may be over before.
    """
    done = len(lines(run))
    wanted = min(COUNT - 1, done + rng.randrange(0, 6))
    with started(job, run, *options) as process:
        if "--workers" in options:
            wait_for(lambda: process.poll() is not None or workers_of(process.pid))
        wait_for(lambda: process.poll() is not None or len(lines(run)) >= max(wanted, 1))
        time.sleep(rng.random() * 0.05)
        crew = workers_of(process.pid)
        if process.poll() is not None or len(lines(run)) == COUNT:
            process.communicate(timeout=300)
            return False
        if victim == "main":
            process.kill()
            process.wait()
            wait_for(
                lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in crew), seconds=60
            )
            return True
        os.kill(rng.choice(crew), signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return True


@pytest.mark.parametrize("victim", ["main", "worker"])
def test_killed_once(
    job: tuple[Path, list[str]], undisturbed: dict[int, str], tmp_path: Path, victim: str
) -> None:
    runs = (tmp_path / str(number) for number in range(5))
    run = next(run for run in runs if disturb(job, run, victim, random.Random(1), "--workers", "2"))
    finish(job, run, "--workers", "1")
    check(run, undisturbed)


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
    job: tuple[Path, list[str]],
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
        killed += disturb(job, run, victim, rng, *options)
        if len(lines(run)) == COUNT:
            finish(job, run, *options)
            check(run, undisturbed)
            rounds += 1
        if killed == times:
            break
    print(f"\n{victim} killed {killed} times {' '.join(options)}")
    assert killed == times
    finish(job, tmp_path / str(rounds), *options)
    check(tmp_path / str(rounds), undisturbed)


def test_ctrl_c_stops_within_seconds_and_says_how_to_go_on(
    job: tuple[Path, list[str]], tmp_path: Path
) -> None:
    with started(job, tmp_path / "run", "--workers", "2") as process:
        wait_for(lambda: lines(tmp_path / "run"))
        crew = workers_of(process.pid)
        began = time.monotonic()
        interrupt(process.pid, *crew)
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert "the same command resumes there" in " ".join(errors.split())
    assert "Traceback" not in errors
    assert "leaked" not in errors
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in crew)


def test_ctrl_c_while_workers_start_shows_no_traceback(
    job: tuple[Path, list[str]], tmp_path: Path
) -> None:
    with started(job, tmp_path / "run", "--workers", "2") as process:
        wait_for(lambda: workers_of(process.pid))
        interrupt(process.pid, *workers_of(process.pid))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_shards_of_two_programs_are_merged(
    job: tuple[Path, list[str]], undisturbed: dict[int, str], tmp_path: Path, cli: Any
) -> None:
    """Two programs at the same time in one folder, and a third in a folder of its own."""
    with (
        started(job, tmp_path / "run", "--shard", "1/3") as first,
        started(job, tmp_path / "run", "--shard", "2/3") as second,
    ):
        for process in (first, second):
            out, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            assert "the other shards do the rest" in " ".join(out.split())
    finish(job, tmp_path / "elsewhere", "--shard", "3/3")
    code, _, _ = cli(
        "runs", "merge", tmp_path / "run", tmp_path / "elsewhere", "-o", tmp_path / "merged"
    )
    assert code == 0
    assert [path.name for path in (tmp_path / "merged").glob("*.jsonl")].count(
        "localizations.jsonl"
    ) == 1
    finish(job, tmp_path / "merged")
    check(tmp_path / "merged", undisturbed)
    code, out, _ = cli("status", tmp_path / "merged")
    assert (code, str(COUNT) in out, "slowest localizations" in out) == (0, True, True)
