from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from records import LAYER, add_images, add_metrics, add_scored_images, localization, localized_run
from scored_run import SCORES, scored_run
from unmemorize import Neurons, Prompt, Run, RunError
from unmemorize.metrics import PromptMetrics
from unmemorize.report import read_results, summary_table
from unmemorize.report._results import Results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read_results(scored_run(tmp_path_factory.mktemp("scored")))


def one_prompt(folder: Path) -> Run:
    record = localization("one", "VM", 0.6, Neurons({LAYER: [1]}))
    return localized_run(folder, [Prompt("one", "VM")], {0: record})


def test_scores_by_set_and_prompt(results: Results) -> None:
    assert [metrics.name for metrics in results.metrics] == list(SCORES)
    assert results.of_set("refined")[2] == PromptMetrics(
        values={
            "sscd-orig": (0.01, 0.09, 0.04),
            "masked-copy": (0.2, 0.88, 0.33),
            "sscd-gen": (0.5, 0.61, 0.57),
            "a-clip": (0.15, 0.29, 0.22),
            "d-sscd": 0.39,
        }
    )
    assert results.of_set("top-10") == {}
    assert results.of_column("refined", "TM") == [results.of_set("refined")[2]]


def test_overall_are_the_labelled_prompts_or_else_all_not_known_as_unmemorized(
    results: Results,
) -> None:
    assert results.indices("overall") == [0, 1, 2, 3, 6]
    assert results.indices("unmemorized") == [4, 5]
    assert [record.prompt for record in results.memorized("VM")] == ["prompt zero", "prompt one"]
    unlabelled = [Prompt("a", group="mine"), Prompt("b", group="unmemorized"), Prompt("c")]
    assert replace(results, prompts=unlabelled).indices("overall") == [0, 2]


def test_images_that_were_not_evaluated_have_no_metrics(tmp_path: Path) -> None:
    run = one_prompt(tmp_path / "run")
    add_images(run, "original", {0: ["0.png"]})
    assert read_results(run).metrics == []


def test_metrics_of_other_images_are_left_out(tmp_path: Path) -> None:
    """The images were drawn anew with fewer steps, and not evaluated since."""
    run = one_prompt(tmp_path / "run")
    add_scored_images(run, {"refined": {0: {"sscd-gen": [0.2]}}})
    assert [each.name for each in read_results(run).metrics] == ["refined"]
    assert read_results(run).outdated == []
    manifest = run.folder / "images" / "refined" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["settings"]["steps"] -= 1
    manifest.write_text(json.dumps(content))
    results = read_results(run)
    assert (results.metrics, results.outdated) == ([], ["metrics of refined"])
    notes = summary_table(results).notes
    assert any("gone or were replaced: metrics of refined. Repeat" in note for note in notes)


def test_what_evaluation_could_not_measure_is_empty(tmp_path: Path) -> None:
    run = one_prompt(tmp_path / "run")
    references = {"used": 0, "missing": ["gone.png"]}
    images = add_images(run, "refined", {0: ["0.png"]})
    add_metrics(run, images, {0: {"sscd-gen": [0.5]}}, references)
    results = read_results(run)
    assert results.of_set("refined")[0].seeds("sscd-orig") == ()
    assert (results.lacking("missing"), results.lacking("unreadable")) == (["gone.png"], [])


def test_scores_on_other_prompts_are_not_those_of_the_run(tmp_path: Path) -> None:
    run = one_prompt(tmp_path / "run")
    add_scored_images(run, {"refined": {0: {"sscd-gen": [0.2]}}}, on="captions")
    results = read_results(run)
    assert results.columns == ("overall", "VM", "captions")
    assert (results.metrics[0].name, results.metrics[0].on) == ("refined", "captions")
    assert results.of_set("refined") == {}
    assert results.of_column("refined", "captions")[0].seeds("sscd-gen") == (0.2,)


def test_damaged_records_are_named(tmp_path: Path) -> None:
    run = one_prompt(tmp_path / "run")
    add_metrics(run, add_images(run, "refined", {0: ["0.png"]}), {0: {"sscd-orig": "high"}})
    with pytest.raises(RunError, match="metrics/refined: damaged record of prompt 0"):
        read_results(run)
    run = one_prompt(tmp_path / "other")
    run.append("quality", 0, {"set": "refined"})
    with pytest.raises(RunError, match="damaged record of quality"):
        read_results(run)


def test_a_run_without_localizations_is_refused(tmp_path: Path) -> None:
    run = localized_run(tmp_path / "run", [Prompt("one")], {})
    with pytest.raises(RunError, match="nothing is localized"):
        read_results(run)


def test_quality_is_read_as_written(tmp_path: Path) -> None:
    run = one_prompt(tmp_path / "run")
    record = {
        "set": "top-5-on-captions",
        "on": "captions",
        "against": "photos",
        "kind": "FID",
        "extractor": "inception",
        "extractor_sha256": "3" * 64,
        "fid": 5.0,
        "kid": 0.1,
        "kid_std": 0.01,
        "generated": 10,
        "real": 20,
    }
    run.append("quality", 0, record)
    assert read_results(run).quality == ()
    assert read_results(run).outdated == ["FID of top-5-on-captions to photos"]
    images = add_images(run, "top-5", {}, on="captions")
    for number in range(10):
        (images.folder / f"{number}.png").touch()
    (quality,) = read_results(run).quality
    assert read_results(run).outdated == []
    assert (quality.set, quality.fid, quality.generated) == ("top-5-on-captions", 5.0, 10)
