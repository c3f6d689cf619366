from __future__ import annotations

import json
import os
import resource
import signal
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from conftest import PROMPTS
from tasks import Squares
from unmemorize import (
    Model,
    NoiseSettings,
    Prompt,
    Run,
    RunError,
    StatisticsError,
    ThresholdError,
    calibrate_threshold,
    compute_statistics,
    read_prompts,
)
from unmemorize.detection import (
    Calibration,
    calibrate_in,
    detect_all,
    detect_prompts,
    read_detections,
)
from unmemorize.engines import Finished
from unmemorize.export import export_parquet
from unmemorize.pipelines import Conditioning
from unmemorize.runs import (
    drive,
    merge_runs,
    open_run,
    prompt_count,
    start_run,
    status_of,
    stream_prompts,
)
from unmemorize.statistics._statistics import StatisticsAccumulator


def numbers(run: Run) -> dict[int, int]:
    return {index: record["square"] for index, record in run.records("squares").items()}


def test_a_stream_is_pulled_only_as_fast_as_it_is_worked_on(
    pipe: DiffusionPipeline, tmp_path: Path
) -> None:
    run = Run.open(tmp_path / "run", {})
    pulled: list[int] = []

    def stream() -> Iterator[tuple[int, int]]:
        for index in range(30):
            pulled.append(index)
            yield index, index

    ahead: list[int] = []
    tally = drive(
        run,
        pipe,
        Squares(size=4),
        stream(),
        30,
        progress=lambda done, _: ahead.append(len(pulled) - done),
    )
    assert tally.complete
    assert max(ahead) == 0


def test_a_unit_is_whole_whatever_is_missing(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    """Results depend on what is computed together by rounding, so a unit of which one item is missing is done as a whole."""
    run = Run.open(tmp_path / "run", {})
    seen: list[tuple[int, ...]] = []
    run.append("squares", 1, {"square": -1})

    class Watched(Squares):
        def _work(self, items: Sequence[int]) -> list[Finished]:
            seen.append(tuple(items))
            return super()._work(items)

    drive(run, pipe, Watched(size=3), enumerate(range(6)), 6)
    assert seen == [(0, 1, 2), (3, 4, 5)]
    assert numbers(run) == {0: 0, 1: -1, 2: 4, 3: 9, 4: 16, 5: 25}
    assert len((run.folder / "squares.jsonl").read_text().splitlines()) == 6


def test_a_full_disk_loses_the_unit_in_work(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(RunError, match="Free some space; the same command goes on from here"):
            drive(run, pipe, Squares(size=2), enumerate(range(100)), 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    kept = numbers(run)
    assert 0 < len(kept) < 100
    assert len(kept) % 2 == 0
    assert drive(run, pipe, Squares(size=2), enumerate(range(100)), 100).complete
    assert numbers(run) == {number: number * number for number in range(100)}
    assert len((run.folder / "squares.jsonl").read_text().splitlines()) == 100


def test_records_are_read_in_the_order_of_the_items(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {})
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
    assert run.records("units") == dict(run.stream("units"))


def test_a_long_torn_line_is_cut_off(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {})
    run.append("units", 0, {"a": 1})
    path = run.folder / "units.jsonl"
    with path.open("ab") as file:
        file.write(b"x" * 3_000_000)
    run.append("units", 1, {"a": 2})
    assert run.records("units") == {0: {"a": 1}, 1: {"a": 2}}
    path.write_bytes(b"torn")
    run.append("units", 2, {"a": 3})
    assert run.records("units") == {2: {"a": 3}}


def test_many_prompts_do_not_sit_in_memory(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    count = 30_000
    tracemalloc.start()
    run = open_run(
        tmp_path / "run", pipe, (Prompt(f"{'long ' * 100}{number}") for number in range(count)), {}
    )
    assert sum(1 for _ in stream_prompts(run)) == prompt_count(run) == count
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (run.folder / "prompts.jsonl").stat().st_size > 15e6
    assert peak < 3e6


def test_a_moved_run_goes_on(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    """Where images are, and what the model is called, determine nothing."""
    first = open_run(
        tmp_path / "run", pipe, [Prompt("x", images=(tmp_path / "here" / "a.png",))], {}
    )
    pipe.register_to_config(_name_or_path="moved")
    again = open_run(
        tmp_path / "run", pipe, [Prompt("x", images=(tmp_path / "there" / "a.png",))], {}
    )
    assert again.manifest == first.manifest
    assert next(stream_prompts(again)).images == (tmp_path / "there" / "a.png",)
    with pytest.raises(RunError, match="made with prompts"):
        open_run(tmp_path / "run", pipe, [Prompt("x", images=(tmp_path / "there" / "b.png",))], {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_another_run_beside(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    names = [
        open_run(tmp_path / "run", pipe, [Prompt("x")], {"theta": theta}, new=True).folder.name
        for theta in (5, 5, 4, 3, 4)
    ]
    assert names == ["run", "run", "run-2", "run-3", "run-2"]
    with pytest.raises(RunError, match=r"made with theta = 5, now it is 4.*--new-run"):
        open_run(tmp_path / "run", pipe, [Prompt("x")], {"theta": 4})


def test_two_programs_start_a_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one looks whether the folder is foreign while the first one writes the manifest."""
    listed = Path.iterdir

    def write_meanwhile(self: Path) -> Iterator[Path]:
        if self == tmp_path / "run":
            monkeypatch.undo()
            Run.open(tmp_path / "other", {"a": 1})
            for file in listed(tmp_path / "other"):
                (self / file.name).write_bytes(file.read_bytes())
            (self / "prompts.jsonl").write_text("")
        return listed(self)

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(Path, "iterdir", write_meanwhile)
    assert Run.open(tmp_path / "run", {"a": 1}).config == {"a": 1}


def test_detection_does_not_depend_on_batch_or_parts(
    planted: DiffusionPipeline, tmp_path: Path
) -> None:
    threshold = calibrate_threshold(planted, PROMPTS, settings=NoiseSettings(seeds=4), deviations=3)
    prompts = [
        Prompt(f"{letter} word" if letter in "abcde" else "zebra quartz") for letter in "abxcydez"
    ]
    found = {}
    for batch in (1, 4, 16):
        run = open_run(tmp_path / str(batch), planted, prompts, {})
        detect_all(run, planted, threshold, batch=batch)
        found[batch] = [detection for _, _, detection in read_detections(run)]
    assert {detection.memorized for detection in found[1]} == {False, True}
    for batch in (4, 16):
        for one, other in zip(found[1], found[batch], strict=True):
            assert one.memorized_seeds == other.memorized_seeds
            assert one.score == pytest.approx(other.score, abs=1e-5)


def test_failures_are_on_record_and_tried_again(
    planted: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmemorize.localization import _runs as _steps

    threshold = calibrate_threshold(planted, PROMPTS, settings=NoiseSettings(seeds=3))
    run = open_run(tmp_path / "run", planted, [Prompt("a"), Prompt("b"), Prompt("c")], {})

    def fail(model: object, prompts: list[Prompt], *rest: object, **more: object) -> object:
        if Prompt("b") in prompts:
            raise MemoryError("not enough")
        return detect_prompts(model, prompts, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(_steps, "detect_prompts", fail)
    tally = detect_all(run, planted, threshold)
    assert (tally.done, tally.failed) == (2, {1: "MemoryError: not enough"})
    (status,) = status_of(run)
    assert (status.name, status.done, status.failed, status.pending) == ("detections", 2, 1, 0)
    monkeypatch.undo()
    assert detect_all(run, planted, threshold).complete
    (status,) = status_of(run)
    assert (status.done, status.failed, status.pending) == (3, 0, 0)
    assert status.rate is not None
    assert status.left == 0
    assert [text for _, text in status.slowest]


def test_an_interrupted_calibration_goes_on(planted: DiffusionPipeline, tmp_path: Path) -> None:
    settings, calibration = NoiseSettings(seeds=3), Calibration()
    prompts = [Prompt(text) for text in PROMPTS]
    run = open_run(tmp_path / "run", planted, prompts, {})

    def stop(done: int, _total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_in(run, planted, calibration, settings, progress=stop)
    seen: list[int] = []
    threshold = calibrate_in(
        run, planted, calibration, settings, progress=lambda done, _: seen.append(done)
    )
    assert seen[0] == 3
    assert threshold == calibrate_threshold(planted, PROMPTS, settings=settings)
    with pytest.raises(ThresholdError, match="needs at least 2"):
        calibrate_in(
            open_run(tmp_path / "one", planted, prompts[:1], {}), planted, calibration, settings
        )


def test_interrupted_statistics_go_on(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    partial = tmp_path / "s.partial"

    def stop(done: int, _total: int | None) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_statistics(
            pipe, PROMPTS, batch=2, partial=partial, raw=tmp_path / "raw", progress=stop
        )
    seen: list[int] = []
    found = compute_statistics(
        pipe,
        PROMPTS,
        batch=2,
        partial=partial,
        raw=tmp_path / "raw",
        progress=lambda done, _: seen.append(done),
    )
    assert seen == [4, 6]
    assert len(list((tmp_path / "raw").iterdir())) == 3
    found.save(tmp_path / "one")
    compute_statistics(pipe, PROMPTS, batch=2).save(tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    with pytest.raises(StatisticsError, match="it sums up other prompts than the first 4 of these"):
        compute_statistics(pipe, list(reversed(PROMPTS)), batch=2, partial=partial)
    with pytest.raises(StatisticsError, match="activations of another model"):
        StatisticsAccumulator.load(partial, "f")
    partial.write_bytes((tmp_path / "one").read_bytes())
    with pytest.raises(
        StatisticsError, match=r"not a statistics file of schema unmemorize.partial"
    ):
        compute_statistics(pipe, PROMPTS, partial=partial)


def test_runs_as_parquet(
    run: Run, planted: DiffusionPipeline, prompts: list[Prompt], tmp_path: Path
) -> None:
    from pyarrow import parquet

    assert export_parquet(run, tmp_path / "l.parquet") == 3
    rows = parquet.read_table(tmp_path / "l.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == [prompt.text for prompt in prompts]
    assert [row["memorized"] for row in rows] == [False, True, False]
    assert rows[1]["neurons"][0]["index"] == 3
    assert read_prompts(tmp_path / "l.parquet")[1].text == prompts[1].text
    detections = open_run(tmp_path / "detections", planted, prompts, {})
    with pytest.raises(RunError, match="neither detections nor localizations"):
        export_parquet(detections, tmp_path / "d.parquet")
    detect_all(detections, planted, calibrate_threshold(planted, PROMPTS))
    assert export_parquet(detections, tmp_path / "d.parquet") == 3
    assert parquet.read_table(tmp_path / "d.parquet").column_names[:3] == [
        "index",
        "prompt",
        "kind",
    ]


def test_status_cuts_no_name(run: Run, cli: Callable[..., tuple[int, str, str]]) -> None:
    Run.open(
        run.folder / "images" / "random-top-100-per-layer", {"on": ""}, about={"items": 1}
    ).append("images", 1, {})
    code, out, _ = cli("status", run.folder)
    assert (code, "images/random-top-100-per-layer" in out) == (0, True)


def test_a_part_of_a_run_has_no_status(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    Run.open(tmp_path / "images", {}).append("images", 0, {})
    code, _, err = cli("status", tmp_path / "images")
    assert (code, "it is no run over prompts" in err) == (1, True)


def test_only_shards_of_one_run_are_merged(tmp_path: Path) -> None:
    one, other = Run.open(tmp_path / "one", {"a": 1}), Run.open(tmp_path / "other", {"a": 2})
    with pytest.raises(RunError, match="they differ in a"):
        merge_runs([one.folder, other.folder], tmp_path / "merged")
    with pytest.raises(RunError, match="exists already"):
        merge_runs([one.folder], tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_sets_of_images_are_merged(tmp_path: Path) -> None:
    for number in range(2):
        run = Run.open(tmp_path / str(number), {"a": 1})
        images = Run.open(run.folder / "images" / "original", {"b": 1})
        images.write(f"{number}.png", b"x")
        with images.writer("images", f"{number + 1}-of-2") as writer:
            writer.append({number: {"files": [f"{number}.png"]}})
    merge_runs([tmp_path / "0", tmp_path / "1"], tmp_path / "merged")
    merged = Run.load(tmp_path / "merged" / "images" / "original")
    assert merged.records("images") == {0: {"files": ["0.png"]}, 1: {"files": ["1.png"]}}
    assert (merged.folder / "1.png").exists()
    assert json.loads((merged.folder / "images.jsonl").read_text().splitlines()[0])["at"] > 0
    assert os.access(merged.folder, os.R_OK)


def test_a_run_folder_on_another_disk(tmp_path: Path) -> None:
    """A link to a scratch disk, say; prompts were once moved across disks and refused."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    with tempfile.TemporaryDirectory(dir=shared) as disk:
        (tmp_path / "run").symlink_to(disk)
        run = start_run(tmp_path / "run", [Prompt("one")], {"a": 1}, model="m")
        assert [prompt.text for prompt in stream_prompts(run)] == ["one"]
        assert sorted(path.name for path in Path(disk).iterdir()) == [
            "manifest.json",
            "prompts.jsonl",
        ]
        modes = {path.stat().st_mode & 0o777 for path in Path(disk).iterdir()}
        assert len(modes) == 1  # others can read both or none


def test_what_killed_processes_leave_is_no_obstacle_and_goes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    old, new = (tmp_path / "run" / f".prompts.jsonl.{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("x")
    os.utime(old, (0, 0))
    start_run(tmp_path / "run", [Prompt("one")], {"a": 1}, model="m", new=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".prompts.jsonl.new",
        "manifest.json",
        "prompts.jsonl",
    ]


def test_a_new_run_beside_one_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text('{"schema": "older"}')
    assert (
        start_run(tmp_path / "run", [Prompt("one")], {"a": 1}, model="m", new=True).folder.name
        == "run-2"
    )
    (tmp_path / "empty").mkdir()
    assert (
        start_run(tmp_path / "empty", [Prompt("one")], {"a": 1}, model="m", new=True).folder.name
        == "empty"
    )


def test_what_another_process_did_meanwhile_is_not_done_again(
    pipe: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that takes over from another looks at the records when the other one is gone."""
    run = Run.open(tmp_path / "run", {})
    writer = Run.writer

    def later(self: Run, name: str, shard: str = "") -> object:
        monkeypatch.setattr(Run, "writer", writer)
        self.append(name, 1, {"square": 1, "pid": 0})
        return writer(self, name, shard)

    monkeypatch.setattr(Run, "writer", later)
    tally = drive(run, pipe, Squares(), enumerate([0, 1, 2]), 3)
    assert (tally.complete, run.records("squares")[1]["pid"]) == (True, 0)
    assert len((run.folder / "squares.jsonl").read_text().splitlines()) == 3


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {})
    count = 150
    for number in range(count):
        with run.writer("squares", f"{number + 1}-of-{count}") as writer:
            writer.append({number + count: {"square": number}, number: {"square": -number}})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (len(list(Path("/dev/fd").iterdir())) + 80, limits[1])
    )
    try:
        found = list(run.stream("squares"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [index for index, _ in found] == list(range(2 * count))


def test_a_pause_is_not_the_rate(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", [Prompt(str(number)) for number in range(20)], {}, model="m")
    times = [*range(1000, 1005), *range(90_000, 90_006)]
    lines = [
        json.dumps({"index": index, "at": float(at), "prompt": "x", "seconds": float(index)})
        for index, at in enumerate(times)
    ]
    lines.append(json.dumps({"index": 18, "error": "x"}))
    (run.folder / "detections.jsonl").write_text("\n".join(lines) + "\n")
    (status,) = status_of(run)
    assert (status.done, status.failed, status.pending) == (11, 1, 8)
    assert status.rate == pytest.approx(1.0)
    assert status.left == pytest.approx(9.0)
    assert [seconds for seconds, _ in status.slowest] == [10, 9, 8, 7, 6]


def test_different_sets_of_images_are_not_merged(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Run.open(tmp_path / name, {"a": 1}, about={"prompts": 1})
        Run.open(tmp_path / name / "images" / "refined", {"seed": name})
    with pytest.raises(RunError, match="they differ in seed"):
        merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_prompts_that_fail_do_not_stop_statistics(
    pipe: DiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Model.encode

    def picky(self: Model, texts: Sequence[str]) -> Conditioning:
        if any("bad" in text for text in texts):
            raise ValueError("cannot be read")
        return encode(self, texts)

    monkeypatch.setattr(Model, "encode", picky)
    partial = tmp_path / "partial"
    given = [*PROMPTS[:3], "bad one", *PROMPTS[3:], "bad two"]
    with pytest.raises(
        StatisticsError,
        match=r"2 prompts fail, such as 'bad one' \(ValueError: cannot be read\). Leave them out",
    ):
        compute_statistics(pipe, given, batch=2, partial=partial)
    done: list[int] = []
    resumed = compute_statistics(
        pipe, PROMPTS, batch=2, partial=partial, progress=lambda at, _: done.append(at)
    )
    assert done == [len(PROMPTS)]  # nothing was left to do
    whole = compute_statistics(pipe, PROMPTS)
    assert (resumed.count, resumed.prompts) == (whole.count, whole.prompts)
    for path, mean in whole.mean.items():
        torch.testing.assert_close(resumed.mean[path], mean)
