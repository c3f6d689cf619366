"""How a run stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import AnyRun
from unmemorize import Prompt, Run, RunError
from unmemorize.runs import Inputs, prompt_count, start_run, status_of

INPUTS = Inputs(fingerprint="f")


def test_a_pause_does_not_count_for_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [Prompt(str(number)) for number in range(20)]
    run = start_run(tmp_path / "run", prompts, AnyRun(), INPUTS, model="m")
    times = [*range(1000, 1005), *range(90_000, 90_006)]
    lines = [
        json.dumps({"index": index, "at": float(at), "prompt": f"p{index}", "seconds": index / 2})
        for index, at in enumerate(times)
    ]
    lines.append(json.dumps({"index": 0, "error": "it failed before or after"}))
    lines.append(json.dumps({"index": 18, "error": "x"}))
    (run.folder / "detections.jsonl").write_text("\n".join(lines) + "\n")
    run.append("quality", 0, {})
    monkeypatch.setattr("time.time", lambda: 90_015.0)
    (status,) = status_of(run)
    assert status.name == "detections"
    assert (status.done, status.failed, status.pending) == (11, 1, 8)
    assert status.rate == pytest.approx(1.0)
    assert status.left == pytest.approx(9.0)
    assert status.idle == 10.0
    assert status.slowest == ((5.0, "p10"), (4.5, "p9"), (4.0, "p8"), (3.5, "p7"), (3.0, "p6"))


def test_the_rate_is_that_of_the_last_items(tmp_path: Path) -> None:
    prompts = [Prompt(str(number)) for number in range(500)]
    run = start_run(tmp_path / "run", prompts, AnyRun(), INPUTS, model="m")
    times = [10.0 * number for number in range(100)] + [
        1000.0 + 2 * number for number in range(250)
    ]
    lines = [json.dumps({"index": index, "at": at}) for index, at in enumerate(times)]
    (run.folder / "detections.jsonl").write_text("\n".join(lines) + "\n")
    (status,) = status_of(run)
    assert status.rate == pytest.approx(0.5)
    assert status.left == pytest.approx(300)


def test_no_rate_of_less_than_two_items(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", [Prompt("a"), Prompt("b")], AnyRun(), INPUTS, model="m")
    assert status_of(run) == []
    with run.writer("detections") as writer:
        writer.append({0: {"error": "x"}})
    (status,) = status_of(run)
    assert (status.done, status.failed, status.pending) == (0, 1, 1)
    assert (status.rate, status.left, status.idle, status.slowest) == (None, None, None, ())


def test_images_are_numbered_as_the_prompts_are(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", [Prompt("a")] * 9, AnyRun(), INPUTS, model="m")
    images = Run.open(
        run.folder / "images" / "refined", AnyRun(), inputs=INPUTS, model="m", items=2
    )
    images.append("images", 7, {})
    (status,) = status_of(run)
    assert (status.name, status.done, status.pending) == ("images/refined", 1, 1)


def test_status_cuts_no_name(run: Run, cli: Callable[..., tuple[int, str, str]]) -> None:
    name = "random-top-100-per-layer"
    images = Run.open(run.folder / "images" / name, AnyRun(), inputs=INPUTS, model="m", items=1)
    images.append("images", 1, {})
    code, out, _ = cli("status", run.folder)
    assert (code, f"images/{name}" in out) == (0, True)


def test_a_part_of_a_run_has_a_status_but_no_prompts(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    images = Run.open(tmp_path / "images", AnyRun(), inputs=INPUTS, model="m", items=2)
    images.append("images", 0, {})
    (status,) = status_of(images)
    assert (status.name, status.done, status.pending) == ("images", 1, 1)
    code, out, _ = cli("status", images.folder)
    assert (code, "Not finished" in out) == (0, True)
    with pytest.raises(RunError, match=r"part of another run.*Name the folder of the whole run"):
        prompt_count(images)
