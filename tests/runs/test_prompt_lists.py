"""The prompts of a run: written once, read as a stream, and part of what a run is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from diffusers import DiffusionPipeline

from conftest import make_pipeline
from tasks import AnyRun
from unmemorize import Model, Prompt, PromptError, Run, RunError
from unmemorize.runs import (
    Inputs,
    given_or_temporary,
    open_run,
    prompt_count,
    run_prompts,
    start_run,
    stream_prompts,
)

INPUTS = Inputs(fingerprint="f")


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(make_pipeline())


def started(folder: Path, prompts: list[Prompt], new: bool = False) -> Run:
    return start_run(folder, prompts, AnyRun(), INPUTS, model="m", new=new)


def test_prompts_are_kept(run: Run, prompts: list[Prompt]) -> None:
    in_run = run_prompts(run)
    assert [replace(prompt, images=()) for prompt in in_run] == [
        replace(prompt, images=()) for prompt in prompts
    ]
    assert [image.name for prompt in in_run for image in prompt.images] == ["reference.png"]
    assert all(image.is_file() for prompt in in_run for image in prompt.images)
    (run.folder / "prompts.jsonl").unlink()
    with pytest.raises(RunError, match="prompt list of the run cannot be read"):
        run_prompts(run)


def test_prompts_may_be_texts(model: Model, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", model, ["a cat", Prompt("a dog")], AnyRun())
    assert run_prompts(run) == [Prompt("a cat"), Prompt("a dog")]


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [("a cat", r"a single prompt\. Give a list"), (["a cat", 3], "prompt 1: 3: not a prompt")],
)
def test_what_are_no_prompts_is_refused(
    model: Model, tmp_path: Path, prompts: Any, problem: str
) -> None:
    with pytest.raises(PromptError, match=problem):
        open_run(tmp_path / "run", model, prompts, AnyRun())
    assert not (tmp_path / "run").exists()


def test_a_damaged_prompt_list_is_an_error(run: Run) -> None:
    for content in (
        "{\n",
        '{"text": 3, "images": []}\n',
        '{"text": "x", "images": [], "kind": "XX"}\n',
        '{"text": "x", "images": ["a.png"]}\n',
        '{"text": "x", "images": null}\n',
        '{"text": "x"}\n',
    ):
        run.write("prompts.jsonl", content)
        with pytest.raises(RunError, match=r"prompts.jsonl, line 1: damaged"):
            run_prompts(run)


def test_a_run_with_a_group_of_a_reserved_name_is_refused_with_the_reason(run: Run) -> None:
    """Earlier versions took such a group."""
    run.write("prompts.jsonl", '{"text": "x", "images": [], "group": "all"}\n')
    with pytest.raises(RunError, match=r"line 1: damaged \(prompt 'x': its group is 'all'"):
        run_prompts(run)


def test_images_move_with_their_run_or_stay(tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "images").mkdir(parents=True)
    image = here / "images" / "a.png"
    image.write_bytes(b"one")
    started(here / "run", [Prompt("x", images=(image, here / "gone.png"))])
    (line,) = (here / "run" / "prompts.jsonl").read_text().splitlines()
    stored = json.loads(line)["images"]
    assert [entry["path"] for entry in stored] == ["../images/a.png", "../gone.png"]
    assert [entry["sha256"] for entry in stored] == [hashlib.sha256(b"one").hexdigest(), ""]
    # all of it moves
    here.rename(tmp_path / "there")
    moved = Run.load(tmp_path / "there" / "run")
    place = tmp_path / "there" / "images" / "a.png"
    assert run_prompts(moved)[0].images == (place, tmp_path / "there" / "gone.png")
    # another image has taken the old place, and then the new one
    image.parent.mkdir(parents=True)
    image.write_bytes(b"two")
    assert run_prompts(moved)[0].images[0] == place
    image.write_bytes(b"one")
    place.write_bytes(b"two")
    assert run_prompts(moved)[0].images[0] == image
    # only the run moves
    place.unlink()
    assert run_prompts(moved)[0].images[0] == image


def test_images_on_another_drive_have_no_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_path(path: object, start: object) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", no_path)
    run = started(tmp_path / "run", [Prompt("x", images=(tmp_path / "a.png",))])
    assert run_prompts(run)[0].images == (tmp_path / "a.png",)


def test_many_prompts_do_not_sit_in_memory(model: Model, tmp_path: Path) -> None:
    count = 10_000
    tracemalloc.start()
    prompts = (Prompt(f"{'long ' * 100}{number}") for number in range(count))
    run = open_run(tmp_path / "run", model, prompts, AnyRun())
    assert sum(1 for _ in stream_prompts(run)) == prompt_count(run) == count
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (run.folder / "prompts.jsonl").stat().st_size > 5e6
    assert peak < 2e6


def test_a_moved_run_is_resumed(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    """Neither the folder of images nor the name of the model determines any result."""

    def opened(image: Path) -> Run:
        return open_run(tmp_path / "run", Model(pipe), [Prompt("x", images=(image,))], AnyRun())

    first = opened(tmp_path / "here" / "a.png")
    pipe.register_to_config(_name_or_path="moved")
    again = opened(tmp_path / "there" / "a.png")
    assert again.manifest == first.manifest
    assert next(stream_prompts(again)).images == (tmp_path / "there" / "a.png",)
    with pytest.raises(RunError, match="made with prompts"):
        opened(tmp_path / "there" / "b.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    "others",
    [
        [Prompt("y"), Prompt("x")],
        [Prompt("x")],
        [Prompt("x"), Prompt("y"), Prompt("y")],
        [Prompt("x"), Prompt("y", "VM")],
        [Prompt("x"), Prompt("y", url="http://a")],
        [Prompt("x"), Prompt("y", group="mine")],
    ],
)
def test_other_prompts_or_another_order_are_another_run(
    tmp_path: Path, others: list[Prompt]
) -> None:
    started(tmp_path / "run", [Prompt("x"), Prompt("y")])
    started(tmp_path / "run", [Prompt("x"), Prompt("y")])
    with pytest.raises(RunError, match=r"made with prompts .*--new-run or in another folder"):
        started(tmp_path / "run", others)


@dataclass(frozen=True, kw_only=True)
class Comparing(AnyRun):
    """A run whose results rest on training images."""

    compares_images: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("before", "now", "what"),
    [
        (b"one", b"two", r"has changed since .*\. Put that back, or start another run"),
        (b"one", None, r"cannot be read any more, .*\. Put it back, or start another run"),
        (None, b"two", r"could not be read when .*\. Move it away, or start another run"),
    ],
)
def test_training_images_that_results_rest_on_stay_the_same(
    before: bytes | None, now: bytes | None, what: str, tmp_path: Path
) -> None:
    image = tmp_path / "cat.png"
    prompts = [Prompt("a dog"), Prompt("a cat", images=(image,))]

    def begun(settings: AnyRun) -> bytes:
        run = start_run(tmp_path / settings.kind, prompts, settings, INPUTS, model="m")
        return (run.folder / "prompts.jsonl").read_bytes()

    def put(content: bytes | None) -> None:
        image.unlink(missing_ok=True)
        if content is not None:
            image.write_bytes(content)

    put(before)
    listed = begun(Comparing())
    put(now)
    with pytest.raises(RunError, match=f"the training image .*cat.png of 'a cat' {what}"):
        begun(Comparing())
    put(before)
    assert begun(Comparing()) == listed
    put(now)
    file = tmp_path / Comparing.kind / "prompts.jsonl"
    file.write_bytes(listed[:50])  # what is damaged is made again
    assert begun(Comparing()) != listed


def test_a_new_run_gets_another_folder(model: Model, tmp_path: Path) -> None:
    names = [
        open_run(
            tmp_path / "run", model, [Prompt("x")], AnyRun(number=number), new=True
        ).folder.name
        for number in (5, 5, 4, 3, 4)
    ]
    assert names == ["run", "run", "run-2", "run-3", "run-2"]
    with pytest.raises(RunError, match=r"made with number = 5, now it is 4.*--new-run"):
        open_run(tmp_path / "run", model, [Prompt("x")], AnyRun(number=4))


def test_another_model_or_dtype_is_another_run(tmp_path: Path) -> None:
    for pipe in (make_pipeline(), make_pipeline()):
        open_run(tmp_path / "run", Model(pipe), [Prompt("x")], AnyRun())
    with pytest.raises(RunError, match="made with fingerprint"):
        open_run(tmp_path / "run", Model(make_pipeline(1)), [Prompt("x")], AnyRun())
    half = Model(make_pipeline())
    half.denoiser.half()
    with pytest.raises(RunError, match=r'dtype = "torch.float32", now it is "torch.float16"'):
        open_run(tmp_path / "run", half, [Prompt("x")], AnyRun())


def test_a_new_run_does_not_touch_one_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text('{"schema": "older"}')
    assert started(tmp_path / "run", [Prompt("one")], new=True).folder.name == "run-2"
    (tmp_path / "empty").mkdir()
    assert started(tmp_path / "empty", [Prompt("one")], new=True).folder.name == "empty"


def test_what_killed_processes_leave_is_no_obstacle_and_goes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    old, new = (tmp_path / "run" / f".prompts.jsonl.{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("x")
    os.utime(old, (0, 0))
    started(tmp_path / "run", [Prompt("one")], new=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".prompts.jsonl.new",
        "manifest.json",
        "prompts.jsonl",
    ]


def test_a_list_that_another_shard_publishes_meanwhile_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there when this one looks for leftovers, and gone when this one looks at it."""
    found = Path.glob

    def glob(folder: Path, pattern: str) -> list[Path]:
        return [*found(folder, pattern), folder / ".prompts.jsonl.published"]

    monkeypatch.setattr(Path, "glob", glob)
    assert run_prompts(started(tmp_path / "run", [Prompt("x")])) == [Prompt("x")]


@pytest.mark.parametrize(
    "problem", [FileNotFoundError(2, "No such file", "captions"), OSError(5, "I/O error")]
)
def test_an_error_of_the_prompts_is_none_of_their_list(tmp_path: Path, problem: OSError) -> None:
    def prompts() -> Iterator[Prompt]:
        yield Prompt("x")
        raise problem

    with pytest.raises(OSError, match=re.escape(str(problem))) as raised:
        start_run(tmp_path / "run", prompts(), AnyRun(), INPUTS, model="m")
    assert raised.value is problem
    assert not (tmp_path / "run").exists()


def test_training_images_in_a_folder_whose_name_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompts name them relative to it."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("a.png").write_bytes(b"one")
    with pytest.raises(RunError, match=r"caf\\udce9/a.png'.* is no UTF-8\. Rename the folder"):
        started(Path("run"), [Prompt("x", images=(Path("a.png"),))])
    assert run_prompts(started(Path("run"), [Prompt("x")])) == [Prompt("x")]


def test_a_run_folder_on_another_disk(tmp_path: Path) -> None:
    """A link to a scratch disk, say; prompts were once moved across disks and refused."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    with tempfile.TemporaryDirectory(dir=shared) as disk:
        (tmp_path / "run").symlink_to(disk)
        run = started(tmp_path / "run", [Prompt("one")])
        assert [prompt.text for prompt in stream_prompts(run)] == ["one"]
        assert sorted(path.name for path in Path(disk).iterdir()) == [
            "manifest.json",
            "prompts.jsonl",
        ]
        modes = {path.stat().st_mode & 0o777 for path in Path(disk).iterdir()}
        assert len(modes) == 1  # others can read both or none


def test_a_temporary_run_folder_goes(tmp_path: Path) -> None:
    with given_or_temporary(None) as folder:
        started(folder, [Prompt("one")])
    assert not folder.exists()
    with given_or_temporary(tmp_path / "run") as folder:
        started(folder, [Prompt("one")])
    assert folder == tmp_path / "run"
    assert folder.exists()


def test_a_new_run_takes_what_a_killed_one_left_and_passes_over_a_file(tmp_path: Path) -> None:
    folder, prompts = tmp_path / "run", [Prompt("a")]
    folder.mkdir()
    for name in (".manifest.json.abc", ".prompts.jsonl.abc"):
        (folder / name).write_text("{")
    assert started(folder, prompts, new=True).folder == folder
    (tmp_path / "run-2").write_text("a file")
    assert started(folder, [Prompt("b")], new=True).folder == tmp_path / "run-3"


def test_a_new_run_beside_the_folder_that_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert started(Path(), [Prompt("a")], new=True).folder == tmp_path / "here-2"
    monkeypatch.chdir("below")
    assert started(Path(".."), [Prompt("b")], new=True).folder == tmp_path / "here-3"
