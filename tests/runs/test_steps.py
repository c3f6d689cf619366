"""Steps of the method over many prompts, in run folders."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from conftest import PLANTED_PROMPT, PROMPTS, planted_pipeline
from tasks import AnyRun
from unmemorize import (
    LocalizationSettings,
    Model,
    NoiseSettings,
    Prompt,
    Run,
    RunError,
    Threshold,
    ThresholdError,
    calibrate_threshold,
    compute_statistics,
    read_prompts,
)
from unmemorize.detection import (
    Calibration,
    Detection,
    detect_all,
    detect_prompts,
    read_detections,
    write_detections_csv,
)
from unmemorize.engines import Execution
from unmemorize.export import export_parquet
from unmemorize.localization import localize_all, read_localizations
from unmemorize.runs import open_run, status_of


@pytest.fixture(scope="module")
def model() -> Model:
    """A model that has memorized PLANTED_PROMPT, which nobody changes."""
    return Model(planted_pipeline())


@pytest.fixture(scope="module")
def threshold(model: Model) -> Threshold:
    settings, calibration = NoiseSettings(seeds=4), Calibration(deviations=3)
    return calibrate_threshold(
        model, PROMPTS, detector="seed-similarity", settings=settings, calibration=calibration
    )


@pytest.fixture
def detected(model: Model, threshold: Threshold, prompts: list[Prompt], tmp_path: Path) -> Run:
    """A run with finished detections of `prompts`."""
    run = open_run(tmp_path / "detections", model, prompts, AnyRun())
    assert detect_all(run, model, threshold).complete
    return run


def test_detection_of_many(detected: Run, prompts: list[Prompt]) -> None:
    detections = list(read_detections(detected))
    assert [(index, prompt) for index, prompt, _ in detections] == list(enumerate(prompts))
    assert [record.group for _, _, record in detections] == ["unlabelled", "VM", "mine"]
    assert [record.memorized for _, _, record in detections] == [False, True, False]
    with pytest.raises(RunError, match="nothing is localized"):
        read_localizations(detected)


def test_detections_as_csv(detected: Run, prompts: list[Prompt]) -> None:
    detections = [record for _, _, record in read_detections(detected)]
    with write_detections_csv(detected).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt"] for row in rows] == [prompt.text for prompt in prompts]
    assert [float(row["score"]) for row in rows] == [record.score for record in detections]
    assert [row["memorized"] for row in rows] == ["0", "1", "0"]
    assert rows[1]["kind"] == "VM"


def test_detection_does_not_depend_on_the_batch(
    model: Model, threshold: Threshold, tmp_path: Path
) -> None:
    texts = [f"{letter} word" if letter in "abcde" else PLANTED_PROMPT for letter in "abxcydez"]
    detections: dict[int, list[Detection]] = {}
    for batch in (1, 4, 16):
        run = open_run(tmp_path / str(batch), model, map(Prompt, texts), AnyRun())
        detect_all(run, model, threshold, batch=batch)
        detections[batch] = [detection for _, _, detection in read_detections(run)]
    assert {detection.memorized for detection in detections[1]} == {False, True}
    for batch in (4, 16):
        for alone, together in zip(detections[1], detections[batch], strict=True):
            assert alone.memorized_seeds == together.memorized_seeds
            assert alone.score == pytest.approx(together.score, abs=1e-5)


def test_failures_are_on_record_and_tried_again(
    model: Model, threshold: Threshold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(tmp_path / "run", model, map(Prompt, "abc"), AnyRun())

    def fail(model: Model, prompts: Sequence[Prompt], *rest: object, **more: object) -> object:
        if Prompt("b") in prompts:
            raise MemoryError("not enough")
        return detect_prompts(model, prompts, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("unmemorize.detection._runs.detect_prompts", fail)
    tally = detect_all(run, model, threshold)
    assert (tally.done, tally.failed) == (2, {1: "MemoryError: not enough"})
    (status,) = status_of(run)
    assert (status.name, status.done, status.failed, status.pending) == ("detections", 2, 1, 0)
    monkeypatch.undo()
    assert detect_all(run, model, threshold).complete
    (status,) = status_of(run)
    assert (status.done, status.failed, status.pending) == (3, 0, 0)
    assert status.rate is not None
    assert status.left == 0
    assert [text for _, text in status.slowest]


def test_an_interrupted_calibration_is_resumed(model: Model, tmp_path: Path) -> None:
    settings = NoiseSettings(seeds=3)

    def stop(done: int, _total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        calibrate_threshold(
            model,
            PROMPTS,
            detector="seed-similarity",
            settings=settings,
            folder=folder,
            execution=Execution(progress=stop),
        )
    seen: list[int] = []
    resumed = calibrate_threshold(
        model,
        PROMPTS,
        detector="seed-similarity",
        settings=settings,
        folder=folder,
        execution=Execution(progress=lambda done, _: seen.append(done)),
    )
    assert seen == [3, 4, 5, 6]
    assert resumed == calibrate_threshold(
        model, PROMPTS, detector="seed-similarity", settings=settings
    )
    with pytest.raises(ThresholdError, match="needs at least 2"):
        calibrate_threshold(
            model,
            PROMPTS[:1],
            detector="seed-similarity",
            settings=settings,
            folder=tmp_path / "one",
        )


def test_runs_as_parquet(
    run: Run, detected: Run, model: Model, prompts: list[Prompt], tmp_path: Path
) -> None:
    from pyarrow import parquet

    assert export_parquet(run, tmp_path / "l.parquet") == 3
    rows = parquet.read_table(tmp_path / "l.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == [prompt.text for prompt in prompts]
    assert [row["memorized"] for row in rows] == [False, True, False]
    assert rows[1]["neurons"][0]["index"] == 3
    assert read_prompts(tmp_path / "l.parquet")[1].text == prompts[1].text
    nothing_yet = open_run(tmp_path / "nothing", model, prompts, AnyRun())
    with pytest.raises(RunError, match="neither detections nor localizations"):
        export_parquet(nothing_yet, tmp_path / "d.parquet")
    assert export_parquet(detected, tmp_path / "d.parquet") == 3
    columns = parquet.read_table(tmp_path / "d.parquet").column_names
    assert columns[:3] == ["index", "prompt", "kind"]


def test_constant_neurons_do_not_break_records(
    planted: DiffusionPipeline, prompts: list[Prompt], tmp_path: Path
) -> None:
    """z-scores of neurons without spread were infinite, which JSON cannot hold."""
    model = Model(planted)
    threshold = calibrate_threshold(model, PROMPTS, detector="seed-similarity")
    statistics = compute_statistics(model, PROMPTS)
    still = replace(statistics, std={path: std * 0 for path, std in statistics.std.items()})
    run = open_run(tmp_path / "still", model, prompts[1:2], AnyRun())
    settings = LocalizationSettings(noise=threshold.settings)
    localize_all(run, model, statistics=still, threshold=threshold, settings=settings)
    localization = read_localizations(run)[0]
    assert localization.memorized
    assert len(localization.neurons) > 0
