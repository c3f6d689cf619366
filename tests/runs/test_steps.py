import csv
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from conftest import PROMPTS
from unmemorize import (
    LocalizationSettings,
    Prompt,
    Run,
    RunError,
    calibrate_threshold,
    compute_statistics,
)
from unmemorize.detection import detect_all, read_detections, write_detections_csv
from unmemorize.localization import localize_all, read_localizations
from unmemorize.runs import open_run, run_prompts


def test_prompts_are_kept(run: Run, prompts: list[Prompt]) -> None:
    assert run_prompts(run) == prompts
    (run.folder / "prompts.jsonl").unlink()
    with pytest.raises(RunError, match="prompt list of the run cannot be read"):
        run_prompts(run)


def test_detection_of_many(
    planted: DiffusionPipeline, prompts: list[Prompt], tmp_path: Path
) -> None:
    run = open_run(tmp_path / "detections", planted, prompts, {})
    assert detect_all(run, planted, calibrate_threshold(planted, PROMPTS)).complete
    found = list(read_detections(run))
    assert [(index, prompt) for index, prompt, _ in found] == list(enumerate(prompts))
    assert [record.group for _, _, record in found] == ["unlabelled", "VM", "mine"]
    with pytest.raises(RunError, match="nothing is localized"):
        read_localizations(run)


def test_detections_as_csv(
    planted: DiffusionPipeline, prompts: list[Prompt], tmp_path: Path
) -> None:
    run = open_run(tmp_path / "detections", planted, prompts, {})
    detect_all(run, planted, calibrate_threshold(planted, PROMPTS))
    found = [record for _, _, record in read_detections(run)]
    with write_detections_csv(run).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt"] for row in rows] == [prompt.text for prompt in prompts]
    assert [float(row["score"]) for row in rows] == [record.score for record in found]
    assert [row["memorized"] for row in rows] == [str(int(record.memorized)) for record in found]
    assert rows[1]["kind"] == "VM"


def test_damaged_prompt_list_is_an_error(run: Run) -> None:
    run.write("prompts.jsonl", '{"text": "x"}\n')
    with pytest.raises(RunError, match="damaged"):
        run_prompts(run)


def test_constant_neurons_do_not_break_records(
    planted: DiffusionPipeline, prompts: list[Prompt], tmp_path: Path
) -> None:
    """z-scores of neurons without spread were infinite, which JSON cannot hold."""
    threshold = calibrate_threshold(planted, PROMPTS)
    statistics = compute_statistics(planted, PROMPTS)
    still = replace(statistics, std={path: std * 0 for path, std in statistics.std.items()})
    run = open_run(tmp_path / "still", planted, prompts[1:2], {})
    settings = LocalizationSettings(noise=threshold.settings)
    localize_all(run, planted, statistics=still, threshold=threshold, settings=settings)
    found = read_localizations(run)[0]
    assert found.memorized
    assert len(found.neurons) > 0
