"""Shards of a run that were made in several folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tasks import AnyRun
from unmemorize import Prompt, Run, RunError
from unmemorize.metrics import read_metrics
from unmemorize.runs import Inputs, hash_of_file, merge_runs, run_prompts, start_run


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
    prompts = '{"text": "das Wörtchen", "images": []}\n'
    (tmp_path / "a" / "prompts.jsonl").write_text(prompts)
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
    assert (merged.folder / "prompts.jsonl").read_text() == prompts


def shard(folder: Path, image: Path, *, nested: bool = False) -> Run:
    """Start a run over one prompt with a training image, with metrics that name the image, too."""
    prompts = [Prompt("a", images=(image,))]
    run = start_run(folder, prompts, AnyRun(), Inputs(fingerprint="f"), model="m")
    if nested:
        shard(folder / "audit", image)
    path = os.path.relpath(image, folder)
    file = {"path": path, "absolute": str(image), "sha256": hash_of_file(image)}
    references = {"used": 1, "missing": [], "unreadable": [], "files": [file]}
    record = {"values": {}, "references": references, "originals": [], "medians": "middle"}
    opened(folder / "metrics" / "refined").append("metrics", 0, record)
    return run


def image_at(path: Path, content: bytes = b"the image") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def images_of(run: Run) -> list[Path]:
    (prompt,) = run_prompts(run)
    return list(prompt.images)


def references_of(run: Run) -> list[Path]:
    """Return the images in the metrics, which name them relative to the run around them."""
    (evaluation,) = run.nested("metrics").values()
    references = read_metrics(evaluation)[0].references
    assert references is not None
    return [file.locate(run.folder) for file in references.files]


@pytest.mark.parametrize("output", ["merged", "deep/er/merged"])
def test_training_images_are_found_from_the_merged_run(tmp_path: Path, output: str) -> None:
    """Runs name them relative to their folder. Here both were moved since."""
    whole = tmp_path / "whole"
    there = whole / "there"
    shard(there / "runs" / "one", image_at(there / "data" / "x.png"), nested=True)
    here = whole / "here"
    there.rename(here)
    image_at(whole / "data" / "x.png", b"of the same relative path, and another one")
    run = merge_runs([here / "runs" / "one"], whole / output)
    expected = [here / "data" / "x.png"]
    assert images_of(run) == expected
    assert images_of(Run.load(run.folder / "audit")) == expected
    assert references_of(run) == expected
    assert run.manifest == Run.load(here / "runs" / "one").manifest

    moved = whole.rename(tmp_path / "moved")  # all together: relative paths still hold
    assert images_of(Run.load(moved / output)) == [moved / "here" / "data" / "x.png"]
    assert references_of(Run.load(moved / output)) == [moved / "here" / "data" / "x.png"]


def test_the_folder_that_finds_the_training_images_names_them(tmp_path: Path) -> None:
    """Each machine has them in another place, and only one of the places is here."""
    shard(tmp_path / "a", image_at(tmp_path / "one" / "x.png"))
    shard(tmp_path / "b", image_at(tmp_path / "another" / "x.png"))
    (tmp_path / "one" / "x.png").unlink()
    run = merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    assert images_of(run) == references_of(run) == [tmp_path / "another" / "x.png"]


def test_images_in_the_run_folder_are_those_that_were_copied(tmp_path: Path) -> None:
    image = tmp_path / "a" / "images" / "x.png"
    shard(tmp_path / "a", image)
    shard(tmp_path / "a", image_at(image))  # resumed when the image was there
    run = merge_runs([tmp_path / "a"], tmp_path / "merged")
    assert images_of(run) == references_of(run) == [run.folder / "images" / "x.png"]


def test_images_that_are_nowhere_stay_where_they_should_be(tmp_path: Path) -> None:
    shard(tmp_path / "a", tmp_path / "data" / "x.png")
    run = merge_runs([tmp_path / "a"], tmp_path / "deep" / "merged")
    assert images_of(run) == references_of(run) == [tmp_path / "data" / "x.png"]


def test_something_must_be_merged(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run is given to merge"):
        merge_runs([], tmp_path / "merged")
    assert not any(tmp_path.iterdir())


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
        "denoiser-0f.json",
        "denoiser-1e/state.safetensors",
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
