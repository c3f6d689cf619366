"""The command that compares detectors and methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_model import model_words, save_inputs

from unmemorize import Comparison, Run, RunError
from unmemorize.comparison import ComparisonRun
from unmemorize.metrics import _detection

Cli = Callable[..., tuple[int, str, str]]


def test_detectors_of_a_model_in_a_folder(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_detection, "_RESAMPLES", 20)  # the bootstrap takes most of the time
    save_inputs(tmp_path)
    words = [f"{letter} word {number}" for letter in "abcd" for number in range(5)]
    (tmp_path / "ordinary.txt").write_text("\n".join(words))
    call: tuple[Any, ...] = (
        "compare", tmp_path / "prompts.csv", *model_words(tmp_path), "-o", tmp_path / "run",
        "--ordinary", tmp_path / "ordinary.txt", "--detectors", "noise-magnitude",
        "--mitigations", "none", "--quick",
    )  # fmt: skip
    code, out, _ = cli(*call, "--dry-run")
    assert (code, "Detectors: 1, each of which scores 22 prompts." in out) == (0, True)
    assert not (tmp_path / "run").exists()
    code, out, _ = cli(*call)
    assert (code, "noise-magnitude" in out, "confirmed" in out) == (0, True, False)
    comparison = Comparison.load(Run.load(tmp_path / "run"))
    assert (comparison.suspects, comparison.planted, comparison.detectors[0].test) == (2, False, 10)
    assert "Published values, of other models" in out
    assert {"comparison.csv", "comparison.json", "compare.html"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    code, out, _ = cli("report", tmp_path / "run")
    assert (code, "compare.html Next: unmemorize mitigate" in out) == (0, True)


def test_options_arrive(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {}

    def record(run: Any, _model: Any, inputs: Any, **named: Any) -> None:
        arguments.update(named, run=run, inputs=inputs)
        raise RunError("reached")

    monkeypatch.setattr("unmemorize.cli.compare.compare_all", record)
    options = ("--seeds", 5, "--images", 30, "--detectors", "dsm", "--mitigations", "pads,repad=0")
    code, _, err = cli("compare", "--quick", "-o", tmp_path / "run", *options)
    assert (code, "reached" in err) == (1, True)
    run, inputs = arguments["run"], arguments["inputs"]
    settings = run.settings(ComparisonRun).settings
    assert (settings.seeds, settings.images, settings.null_images) == (5, 30, 199)
    assert (settings.generation.steps, settings.generation.guidance) == (30, 3.0)
    assert [len(inputs.captions.calibration), len(inputs.captions.test)] == [99, 99]
    assert inputs.statistics is inputs.threshold is None
    assert inputs.planted
    assert [detector.name for detector in arguments["detectors"]] == ["dsm"]
    methods = [(method.name, method.strength) for method in arguments["methods"]]
    assert methods == [("pads", 0.7), ("repad", 0.0)]
    groups = Counter(
        line.split('"group": "')[1].split('"')[0]
        for line in (run.folder / "prompts.jsonl").read_text().splitlines()
    )
    assert set(groups) == {"natural", "through neurons", "both ways"}
