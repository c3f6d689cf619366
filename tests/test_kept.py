"""Results that are kept in the cache of the user."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from platformdirs import user_cache_path

from conftest import PLANTED_PROMPT, make_pipeline, planted_pipeline
from unmemorize import (
    Calibration,
    LocalizationSettings,
    Model,
    NoiseSettings,
    RunError,
    Statistics,
    StatisticsError,
    Threshold,
    ThresholdError,
    UnmemorizeError,
    calibrate_threshold,
    compute_statistics,
    detect,
    localize,
    testbed,
)
from unmemorize._bundled import ThresholdRule
from unmemorize._captions import ordinary_captions
from unmemorize._files import atomic_write
from unmemorize._kept import cache_folder, kept
from unmemorize.detection import default_threshold, default_threshold_path
from unmemorize.detection._detectors import as_detector
from unmemorize.detection._kept import BUNDLED
from unmemorize.engines import Execution
from unmemorize.statistics import (
    default_statistics,
    default_statistics_path,
    statistics_captions,
    threshold_captions,
)

SEEDS = NoiseSettings(seeds=3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMEMORIZE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of captions."""
    monkeypatch.setattr("unmemorize.statistics._ordinary._FOR_THRESHOLDS", 6)
    monkeypatch.setattr("unmemorize.statistics._ordinary._FOR_STATISTICS", 9)


@pytest.fixture
def passes(pipe: DiffusionPipeline) -> Iterator[list[int]]:
    """Counts the forward passes of the text encoder."""
    calls: list[int] = []
    handle = pipe.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


class Made:
    """Makes a text and counts how often."""

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def __call__(self, folder: Path) -> str:
        self.folders.append(folder)
        return "made"


def read(path: Path) -> str:
    text = path.read_text()
    if text != "made":
        raise RunError("not what was made")
    return text


def keep(path: Path, make: Callable[[Path], str]) -> str:
    def save(text: str, where: Path) -> None:
        atomic_write(where, text, RunError)

    return kept(path, read, make, save, about="a text", error=StatisticsError)


def test_the_cache_of_the_platform_unless_a_folder_is_named(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    assert cache_folder() == own_cache
    monkeypatch.setenv("UNMEMORIZE_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("UNMEMORIZE_CACHE")
    assert cache_folder() == user_cache_path("unmemorize")


def test_a_result_is_made_once(own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unmemorize")
    make, path = Made(), own_cache / "texts" / "key.txt"
    assert [keep(path, make), keep(path, make)] == ["made", "made"]
    assert make.folders == [own_cache / "texts" / "key.partial"]
    assert [record.getMessage() for record in caplog.records] == [
        f"a text: kept in {path}",
        f"a text: {path}",
    ]


def test_a_damaged_file_is_made_again(own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, path = Made(), own_cache / "key.txt"
    own_cache.mkdir()
    path.write_text("mad")
    assert keep(path, make) == path.read_text() == "made"
    assert "cannot be used and is made again (not what was made)" in caplog.text


def test_what_was_computed_stays_where_the_disk_is_full(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: Path) -> str:
        folder.mkdir(exist_ok=True)
        (folder / "record").write_text("half a night of work")
        return "made"

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StatisticsError, match=r"No space left.*UNMEMORIZE_CACHE names another"):
            keep(own_cache / "key.txt", make)
    assert (own_cache / "key.partial" / "record").exists()
    assert keep(own_cache / "key.txt", make) == "made"
    assert not (own_cache / "key.partial").exists()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("damaged", [False, True])
def test_what_cannot_be_resumed_is_made_from_the_beginning(
    pipe: DiffusionPipeline, damaged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch size is not part of the key, but it is part of the run."""

    def kill(done: int, _total: int | None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    path = default_statistics_path(Model(pipe))
    with pytest.raises(KeyboardInterrupt):
        default_statistics(pipe, batch=2, execution=Execution(progress=kill))
    partial = path.with_suffix(".partial")
    if damaged:
        (partial / "manifest.json").write_text("{")
    assert (partial / "batches.jsonl").exists()
    caplog.clear()
    assert default_statistics(pipe, batch=2 if damaged else 3).count == 9
    assert "made from the beginning" in caplog.text
    assert (path.exists(), partial.exists()) == (True, False)


def test_other_errors_leave_what_was_computed(own_cache: Path) -> None:
    def fail(folder: Path) -> str:
        folder.mkdir()
        raise RunError("no worker is left.")

    with pytest.raises(RunError, match="no worker is left"):
        keep(own_cache / "key.txt", fail)
    assert (own_cache / "key.partial").exists()


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(own_cache: Path) -> None:
    own_cache.write_text("a file")
    with pytest.raises(StatisticsError, match="name another folder with UNMEMORIZE_CACHE"):
        keep(own_cache / "texts" / "key.txt", Made())


@pytest.mark.parametrize(
    "problem", [OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)), NotImplementedError("flock")]
)
def test_a_file_system_without_locks(
    problem: Exception, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr("unmemorize._locks.FileLock.acquire", refuse)
    assert keep(own_cache / "key.txt", Made()) == "made"
    assert (own_cache / "key.txt").read_text() == "made"


def test_of_two_that_need_it_at_once_one_makes_it(
    own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, started, may_end = own_cache / "key.txt", threading.Event(), threading.Event()
    results: list[str] = []

    def slow(_folder: Path) -> str:
        started.set()
        assert may_end.wait(60)
        return "made"

    class Release(logging.Handler):
        """Lets the first one end when the second one says that it waits."""

        def emit(self, record: logging.LogRecord) -> None:
            if "Waiting for it" in record.getMessage():
                may_end.set()

    release, unneeded = Release(), Made()
    logging.getLogger("unmemorize").addHandler(release)
    first = threading.Thread(target=lambda: results.append(keep(path, slow)))
    first.start()
    assert started.wait(60)
    results.append(keep(path, unneeded))
    first.join()
    logging.getLogger("unmemorize").removeHandler(release)
    assert (results, unneeded.folders) == (["made", "made"], [])
    assert "another process makes it" in caplog.text


@pytest.mark.usefixtures("few")
def test_statistics_are_those_of_the_captions(
    pipe: DiffusionPipeline, passes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(pipe)
    statistics = default_statistics(model)
    expected = compute_statistics(model, statistics_captions(model))
    assert (statistics.count, statistics.prompts) == (9, expected.prompts)
    path = default_statistics_path(model)
    assert Statistics.load(path).prompts == expected.prompts
    assert "No statistics are kept" in caplog.text
    assert "Captions of your own" in caplog.text
    passes.clear()
    assert default_statistics(pipe).prompts == expected.prompts
    assert passes == []
    other = make_pipeline(seed=1)
    shutil.copy(path, default_statistics_path(Model(other)))
    caplog.clear()
    assert default_statistics(other).fingerprint == Model(other).fingerprint
    assert "is made again" in caplog.text


@pytest.mark.usefixtures("few")
def test_thresholds_are_kept_for_each_setting(pipe: DiffusionPipeline, passes: list[int]) -> None:
    model = Model(pipe)
    threshold = default_threshold(model, settings=SEEDS)
    assert threshold == calibrate_threshold(model, threshold_captions(model), settings=SEEDS)
    passes.clear()
    assert default_threshold(model, settings=SEEDS) == threshold
    assert passes == []
    published = default_threshold(
        model, settings=NoiseSettings.published(), calibration=Calibration.published()
    )
    assert (published.settings, published.detect.reduction) == (NoiseSettings.published(), "pairs")
    by_magnitude = default_threshold(model, detector="noise-magnitude", settings=SEEDS)
    assert by_magnitude.detect.detector == "noise-magnitude"
    paths = {
        default_threshold_path(model, detector, settings, calibration)
        for detector in ("seed-similarity", "noise-magnitude")
        for settings in (SEEDS, NoiseSettings())
        for calibration in (Calibration(), Calibration(max_fpr=0.2))
    }
    assert len(paths) == 8
    path = default_threshold_path(model, "late-noise-magnitude", SEEDS, Calibration())
    path.write_text("{}")
    assert default_threshold(model, settings=SEEDS) == threshold == Threshold.load(path)


@pytest.mark.usefixtures("few")
def test_a_live_pipeline_needs_nothing_but_a_prompt() -> None:
    pipe = planted_pipeline()
    threshold, statistics = default_threshold(pipe), default_statistics(pipe)
    assert detect(pipe, PLANTED_PROMPT).tau == threshold.detect.tau
    by_similarity = detect(pipe, "a cat", detector="seed-similarity", settings=SEEDS, stop="never")
    assert by_similarity.seeds == 3
    settings = LocalizationSettings(seed_threshold=0.2)
    given = localize(
        pipe, PLANTED_PROMPT, statistics=statistics, threshold=threshold, settings=settings
    )
    found = localize(pipe, PLANTED_PROMPT, settings=settings)
    assert found.detection is not None
    assert given.detection is not None
    assert (found.detection.score, found.detection.tau) == (
        given.detection.score,
        threshold.detect.tau,
    )
    assert (found.neurons, found.initial, found.score) == (
        given.neurons,
        given.initial,
        given.score,
    )
    strict = default_threshold(pipe, detector="seed-similarity")
    on_seeds = localize(pipe, PLANTED_PROMPT, threshold=strict, settings=settings)
    assert on_seeds.initial
    few_seeds = localize(pipe, PLANTED_PROMPT, settings=LocalizationSettings(noise=SEEDS))
    assert set(few_seeds.seeds) <= {0, 1, 2}


def test_the_bundled_model_uses_its_own(bundled: DiffusionPipeline, own_cache: Path) -> None:
    model = Model(bundled)
    assert default_statistics(model).count == len(testbed.captions("train"))
    assert default_threshold(model) == Threshold.load(testbed.threshold_path())
    assert not own_cache.exists()
    other = default_threshold_path(model, "seed-similarity", SEEDS, Calibration())
    assert own_cache in other.parents


def test_published_settings_take_the_published_threshold(
    bundled: DiffusionPipeline, own_cache: Path
) -> None:
    published = Threshold.load(testbed.threshold_path("published"))
    settings = replace(LocalizationSettings.published(), layers="mid_block.*")
    found = localize(bundled, "fundus photograph of healthy retina", settings=settings)
    assert found.detection is not None
    assert found.detection.tau == published.detect.tau
    assert found.tau == published.localize.tau
    assert not own_cache.exists()


@pytest.mark.parametrize("rule", BUNDLED)
def test_every_threshold_that_the_bundled_model_brings_is_found(
    bundled: DiffusionPipeline, rule: ThresholdRule
) -> None:
    name, settings, calibration = BUNDLED[rule]
    for detector in (name, as_detector(name)):
        path = default_threshold_path(Model(bundled), detector, settings, calibration)
        assert path == testbed.threshold_path(rule)
        assert Threshold.load(path).detect.detector == name


def test_captions_are_ordered_by_the_words_that_the_tokenizer_knows(
    bundled: DiffusionPipeline,
) -> None:
    model, captions = Model(bundled), set(ordinary_captions())
    first, then = threshold_captions(model), statistics_captions(model)
    assert (len(first), len(then), len({*first, *then} & captions)) == (500, 2000, 2500)
    sizes = [len(bundled.tokenizer.tokenize(text)) / len(text.split()) for text in (*first, *then)]
    assert sizes == sorted(sizes)
    assert sizes[499] == 1.0
    held_out = set(testbed.captions("test"))
    assert len(captions & held_out) < len(held_out) / 100  # "a pear on a blue background"
    bundled_without = Model(make_pipeline())
    bundled_without.pipe.tokenizer = None
    assert threshold_captions(bundled_without) == ordinary_captions()[:500]


def test_errors_of_a_caption_pass_unchanged(
    pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **_named: object) -> None:
        raise ThresholdError("prompt 'x' fails (boom).")

    monkeypatch.setattr("unmemorize.detection._kept.calibrate_threshold", fail)
    with pytest.raises(UnmemorizeError, match=r"^prompt 'x' fails \(boom\)\.$"):
        default_threshold(pipe)
