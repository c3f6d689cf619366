"""Run folders: when they are resumed, when they are refused, and that a kill loses nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tasks import AnyRun
from unmemorize import Run, RunError
from unmemorize.runs import Environment, Inputs

INPUTS = Inputs(fingerprint="f", dtype="torch.float32", prompts="p")
SETTINGS = AnyRun(number=5, name="x")


def opened(folder: Path, settings: AnyRun = SETTINGS, inputs: Inputs = INPUTS, **more: Any) -> Run:
    return Run.open(folder, settings, inputs=inputs, model="m", items=3, **more)


def test_the_same_run_is_resumed(tmp_path: Path) -> None:
    run = opened(tmp_path / "run")
    run.append("units", 3, {"text": "é <b>"})
    again = opened(tmp_path / "run")
    assert again.manifest == run.manifest == Run.load(tmp_path / "run").manifest
    assert again.records("units") == {3: {"text": "é <b>"}}
    assert again.records("others") == {}
    assert again.settings(AnyRun) == SETTINGS
    manifest = again.manifest
    assert (manifest.kind, manifest.model, manifest.items) == ("any", "m", 3)
    assert {"python", "torch", "unmemorize"} <= manifest.versions.keys()
    assert manifest.command
    assert manifest.started


def test_a_manifest_tells_what_the_run_was_started_with(tmp_path: Path) -> None:
    """A run that resumes elsewhere is the same one, and earlier versions said nothing of it."""
    here = Environment(scheduler="DDIMScheduler", scheduler_config={"shift": 3.0}, threads=2)
    run = opened(tmp_path / "run", environment=here)
    assert Run.load(run.folder).manifest.environment == here
    elsewhere = opened(tmp_path / "run", environment=replace(here, device="cuda:0"))
    assert elsewhere.manifest.environment == here
    manifest = json.loads((run.folder / "manifest.json").read_text())
    del manifest["environment"]
    (run.folder / "manifest.json").write_text(json.dumps(manifest))
    assert opened(tmp_path / "run", environment=here).manifest.environment == Environment()


@pytest.mark.parametrize(
    ("program", "recorded"),
    [
        ("/usr/bin/unmemorize", "unmemorize demo -o 'a b'"),
        ("/usr/lib/python3/unmemorize/__main__.py", "unmemorize demo -o 'a b'"),
        ("mine.py", "mine.py demo -o 'a b'"),
    ],
)
def test_the_command_is_recorded_as_it_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, recorded: str
) -> None:
    monkeypatch.setattr("sys.argv", [program, "demo", "-o", "a b"])
    assert opened(tmp_path / "run").manifest.command == recorded


@pytest.mark.parametrize(
    ("settings", "inputs", "message"),
    [
        (replace(SETTINGS, number=6), INPUTS, r"made with number = 5, now it is 6"),
        (replace(SETTINGS, name="y"), INPUTS, r'made with name = "x", now it is "y"'),
        (SETTINGS, replace(INPUTS, fingerprint="g"), r'made with fingerprint = "f", now'),
        (SETTINGS, replace(INPUTS, dtype="torch.float16"), r'made with dtype = "torch.float32"'),
        (SETTINGS, replace(INPUTS, prompts="q"), r'made with prompts = "p", now it is "q"'),
    ],
)
def test_another_run_is_refused_by_name(
    tmp_path: Path, settings: AnyRun, inputs: Inputs, message: str
) -> None:
    opened(tmp_path / "run")
    with pytest.raises(RunError, match=rf"{message}.*resume it, or use another folder"):
        opened(tmp_path / "run", settings, inputs)
    with pytest.raises(RunError, match="resume it, or do this"):
        opened(tmp_path / "run", settings, inputs, way_out="do this")


def test_another_kind_of_run_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class OtherRun(AnyRun):
        kind: ClassVar[str] = "other"

    run = opened(tmp_path / "run")
    with pytest.raises(RunError, match=r"a run of kind any, not other\. Name another folder"):
        opened(tmp_path / "run", OtherRun(number=5, name="x"))
    with pytest.raises(RunError, match="a run of kind any, not other"):
        run.settings(OtherRun)


def test_folders_that_are_no_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="not a run folder"):
        opened(tmp_path)
    with pytest.raises(RunError, match="not a run folder"):
        opened(tmp_path / "file")
    with pytest.raises(RunError, match="cannot be read"):
        Run.load(tmp_path / "nowhere")
    with pytest.raises(RunError, match="cannot be written"):
        opened(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"schema": "unmemorize.run/1"}, "a run of schema 'unmemorize.run/1', this version reads"),
        ({"schema": "unmemorize.run/3"}, "damaged manifest"),
    ],
)
def test_manifests_of_other_versions_are_refused(
    tmp_path: Path, manifest: dict[str, str], message: str
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=rf"{message}.*Repeat the command that made it"):
        Run.load(tmp_path)


def test_damaged_settings_are_refused(tmp_path: Path) -> None:
    run = opened(tmp_path)
    content = json.loads((run.folder / "manifest.json").read_text())
    content["settings"]["number"] = "five"
    (run.folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"damaged manifest .*number.*Repeat the command"):
        Run.load(tmp_path).settings(AnyRun)


def test_a_manifest_that_was_never_finished_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.x8s7").write_text("{")
    assert opened(tmp_path).settings(AnyRun) == SETTINGS


def test_two_programs_start_a_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one checks whether the folder is foreign while the first writes the manifest."""
    listed = Path.iterdir

    def write_meanwhile(self: Path) -> Iterator[Path]:
        if self == tmp_path / "run":
            monkeypatch.undo()
            opened(tmp_path / "other")
            for file in listed(tmp_path / "other"):
                (self / file.name).write_bytes(file.read_bytes())
            (self / "prompts.jsonl").write_text("")
        return listed(self)

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(Path, "iterdir", write_meanwhile)
    assert opened(tmp_path / "run").settings(AnyRun) == SETTINGS


def test_runs_inside_a_run(tmp_path: Path) -> None:
    run = opened(tmp_path / "run")
    for name in ("b", "a"):
        opened(run.folder / "images" / name, replace(SETTINGS, name=name))
    (run.folder / "images" / "other").mkdir()
    nested = run.nested("images")
    assert [(name, inner.settings(AnyRun).name) for name, inner in nested.items()] == [
        ("a", "a"),
        ("b", "b"),
    ]
    assert run.nested("metrics") == {}


def test_a_command_with_a_path_that_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are written out, so every report can hold the command."""
    words = ["/bin/unmemorize", "mitigate", os.fsdecode(b"caf\xe9.txt"), "é"]
    monkeypatch.setattr(sys, "argv", words)
    assert opened(tmp_path / "run").manifest.command == r"unmemorize mitigate 'caf\xe9.txt' 'é'"


def test_a_run_only_grows(tmp_path: Path) -> None:
    run = opened(tmp_path / "run")
    for items, expected in ((1, 3), (5, 5), (4, 5)):
        run.expect(items)
        assert run.manifest.items == Run.load(tmp_path / "run").manifest.items == expected
