"""Shards of a run that were made in several folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tasks import AnyRun
from unmemorize import Run, RunError
from unmemorize.runs import Inputs, merge_runs


def opened(folder: Path, number: int = 1) -> Run:
    return Run.open(
        folder, AnyRun(number=number), inputs=Inputs(fingerprint="f"), model="m", items=4
    )


def test_the_last_record_of_an_item_counts_and_errors_are_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run = opened(tmp_path / name)
        with run.writer("units") as writer:
            writer.append({2: {"from": name}, 0: {"from": f"{name} at first"}})
            writer.append({0: {"from": name}, 3: {"error": "x"}})
        run.append("others", 1, {"from": name})
    (tmp_path / "a" / "prompts.jsonl").write_text("the prompts\n")
    (tmp_path / "a" / "summary.csv").write_text("not copied")
    merged = merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    assert merged.manifest == Run.load(tmp_path / "a").manifest
    assert list(merged.stream("units")) == [(0, {"from": "b"}), (2, {"from": "b"})]
    assert merged.records("others") == {1: {"from": "b"}}
    assert merged.failures("units") == {}
    assert len((merged.folder / "units.jsonl").read_text().splitlines()) == 2
    assert sorted(path.name for path in merged.folder.iterdir()) == [
        "manifest.json",
        "others.jsonl",
        "prompts.jsonl",
        "units.jsonl",
    ]
    assert (merged.folder / "prompts.jsonl").read_text() == "the prompts\n"


def test_only_shards_of_one_run_are_merged(tmp_path: Path) -> None:
    one, other = opened(tmp_path / "one"), opened(tmp_path / "other", 2)
    with pytest.raises(RunError, match="they differ in number"):
        merge_runs([one.folder, other.folder], tmp_path / "merged")
    with pytest.raises(RunError, match="exists already"):
        merge_runs([one.folder], tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_sets_of_images_are_merged(tmp_path: Path) -> None:
    for number in range(2):
        run = opened(tmp_path / str(number))
        images = opened(run.folder / "images" / "original")
        images.write(f"{number}.png", bytes([number]))
        with images.writer("images", f"{number + 1}-of-2") as writer:
            writer.append({number: {"files": [f"{number}.png"]}})
        opened(run.folder / "metrics" / f"of {number}").append("metrics", number, {"sscd": 0.5})
    merge_runs([tmp_path / "0", tmp_path / "1"], tmp_path / "merged")
    merged = Run.load(tmp_path / "merged" / "images" / "original")
    assert merged.records("images") == {0: {"files": ["0.png"]}, 1: {"files": ["1.png"]}}
    assert [(merged.folder / f"{number}.png").read_bytes() for number in range(2)] == [
        b"\0",
        b"\1",
    ]
    assert json.loads((merged.folder / "images.jsonl").read_text().splitlines()[0])["at"] > 0
    assert os.access(merged.folder, os.R_OK)
    metrics = Run.load(tmp_path / "merged").nested("metrics")
    assert {name: nested.records("metrics") for name, nested in metrics.items()} == {
        "of 0": {0: {"sscd": 0.5}},
        "of 1": {1: {"sscd": 0.5}},
    }


def test_what_records_name_is_copied(tmp_path: Path) -> None:
    """Pictures, states of attacks, weights and edits; no summary, lock or temporary file."""
    needed = [
        "edited-L4/00000-0005.safetensors",
        "edited-L4/00000-0005.png",
        "weights/002.safetensors",
        "examples.safetensors",
        "text-encoder-0f.json",
        "unmemorize-edit-0f.safetensors",
        "before/00000-1.jpg",
        "audit/mine/edited-L4/00001-0005.safetensors",
    ]
    others = [
        "audit.json",
        "report.html",
        "edit.json",
        ".units.jsonl.lock",
        ".examples.safetensors.x1",
        "weights/.003.safetensors.x1",
        ".partial/x.png",
        "audit/mine/audit.json",
    ]
    for number, name in enumerate("ab"):
        opened(tmp_path / name)
        opened(tmp_path / name / "audit" / "mine").append("edited-L4", number, {"from": name})
        for path in (*needed[number::2], *others):
            (tmp_path / name / path).parent.mkdir(exist_ok=True)
            (tmp_path / name / path).write_text(name + path)
    merged = merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged").folder
    copied = {
        path.relative_to(merged).as_posix(): path.read_text()
        for path in merged.rglob("*")
        if path.is_file() and path.suffix != ".jsonl" and path.name != "manifest.json"
    }
    assert copied == {path: "ab"[place % 2] + path for place, path in enumerate(needed)}
    audit = Run.load(merged / "audit" / "mine")
    assert audit.records("edited-L4") == {0: {"from": "a"}, 1: {"from": "b"}}


def test_a_run_in_a_folder_of_its_own_is_merged(tmp_path: Path) -> None:
    """The judging audit of a hardening is RUN/audit itself."""
    opened(tmp_path / "a")
    opened(tmp_path / "a" / "audit").append("edited-L4", 3, {"state": "x"})
    opened(tmp_path / "b")  # has not come so far
    merged = merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged").folder
    assert Run.load(merged / "audit").records("edited-L4") == {3: {"state": "x"}}


def test_different_sets_of_images_are_not_merged(tmp_path: Path) -> None:
    for number in (1, 2):
        opened(tmp_path / str(number))
        opened(tmp_path / str(number) / "images" / "refined", number)
    with pytest.raises(RunError, match="they differ in number"):
        merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "both")
    assert not (tmp_path / "both").exists()
