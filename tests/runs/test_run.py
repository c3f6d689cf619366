import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from unmemorize import Run, RunError

CONFIG = {"model": "m", "tau": 0.5}


def test_open_again_and_go_on(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", CONFIG)
    run.append("units", 3, {"text": "é <b>"})
    again = Run.open(tmp_path / "run", CONFIG)
    assert again.manifest == run.manifest
    assert again.records("units") == {3: {"text": "é <b>"}}
    assert again.records("others") == {}
    assert {"python", "torch", "unmemorize"} <= again.manifest["versions"].keys()


def test_another_setting_is_refused_by_name(tmp_path: Path) -> None:
    Run.open(tmp_path / "run", CONFIG)
    with pytest.raises(RunError, match=r"made with tau = 0.5, now it is 0.6"):
        Run.open(tmp_path / "run", CONFIG | {"tau": 0.6})


def test_torn_last_line_is_redone(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", CONFIG)
    run.append("units", 0, {"a": 1})
    path = run.folder / "units.jsonl"
    path.write_bytes(path.read_bytes() + b'{"index": 1, "a"')
    torn = path.read_bytes()
    assert run.records("units") == {0: {"a": 1}}
    assert path.read_bytes() == torn  # reading changes nothing
    run.append("units", 1, {"a": 2})
    assert run.records("units") == {0: {"a": 1}, 1: {"a": 2}}


@pytest.mark.parametrize(
    ("line", "message"),
    [("{]", "line 1: damaged"), ('{"a": 1}', "line 1: a record without an index")],
)
def test_damage_elsewhere_is_an_error(tmp_path: Path, line: str, message: str) -> None:
    run = Run.open(tmp_path / "run", CONFIG)
    (run.folder / "units.jsonl").write_text(line + '\n{"index": 1}\n')
    with pytest.raises(RunError, match=message):
        run.records("units")


def test_folders_that_are_no_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="not a run folder"):
        Run.open(tmp_path, CONFIG)
    with pytest.raises(RunError, match="cannot be read"):
        Run.load(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": "other"}))
    with pytest.raises(RunError, match="not a run of schema"):
        Run.load(tmp_path)
    with pytest.raises(RunError, match="cannot be written"):
        Run.open(tmp_path / "file" / "run", CONFIG)


WRITER = """
import sys
from unmemorize import Run
run = Run.open(sys.argv[1], {"model": "m", "tau": 0.5})
for index in range(len(run.records("units")), 400):
    run.append("units", index, {"value": index * index, "filling": "x" * 500})
    print(index, flush=True)
"""


def run_writer(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.PIPE,
    )


def test_sigkill_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for stop in (3, 40, None):
        with run_writer(folder) as child:
            assert child.stdout is not None
            for number, _ in enumerate(child.stdout):
                if number == stop:
                    os.kill(child.pid, signal.SIGKILL)
                    break
            child.wait()
    assert Run.load(folder).records("units") == {
        index: {"value": index * index, "filling": "x" * 500} for index in range(400)
    }


def test_full_disk_is_an_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", CONFIG)
    run.append("units", 0, {"a": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        with pytest.raises(RunError, match="Free some space"):
            run.append("units", 1, {"filling": "x" * 5000})
        with pytest.raises(RunError, match="Free some space"):
            run.write("report.html", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert run.records("units") == {0: {"a": 1}}
    assert not (run.folder / "report.html").exists()
    assert sorted(path.name for path in run.folder.iterdir()) == ["manifest.json", "units.jsonl"]


def test_a_manifest_that_was_never_finished_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.x8s7").write_text("{")
    assert Run.open(tmp_path, CONFIG).config == CONFIG


def test_a_file_that_cannot_be_opened_is_left_as_it_is(tmp_path: Path) -> None:
    """A failing open once emptied the file."""
    run = Run.open(tmp_path / "run", CONFIG)
    run.append("units", 0, {"a": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(RunError, match="cannot be written"):
            run.append("units", 1, {"a": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert run.records("units") == {0: {"a": 1}}
