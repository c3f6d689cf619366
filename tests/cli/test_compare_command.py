"""The command that compares detectors and methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_model import model_words, save_inputs

from compared_run import compared_run
from unmemorize import Comparison, Run, RunError
from unmemorize.cli import _console, compare
from unmemorize.comparison import ComparisonRun, MethodRow
from unmemorize.metrics import _detection
from unmemorize.mitigation import Copies

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


def test_only_methods_that_work_for_all_suspects_are_ranked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`easy` works for 1 of 10 suspects; `many` and `few` change 4 of 40 and 3 of 20 images."""
    monkeypatch.setattr(_console.console, "_width", 200)
    shared: dict[str, Any] = {"suspects": 10, "ordinary": 40, "copies": Copies(1, 100)}
    rows = (
        MethodRow(method="none", strength=0.0, suspects=10, ordinary=40, copies=Copies(0, 100)),
        MethodRow(
            method="easy",
            strength=1.0,
            suspects=10,
            ordinary=4,
            copies=Copies(0, 10),
            refused=9,
            reason="no attention maps: not here",
        ),
        MethodRow(method="few", strength=2.0, changed=3, **{**shared, "ordinary": 20}),
        MethodRow(method="many", strength=3.0, changed=4, **shared),
    )
    comparison = replace(Comparison.load(compared_run(tmp_path / "run")), methods=rows)
    with _console.console.capture() as printed:
        compare._print_comparison(comparison)
    out = printed.get()
    assert (
        "Fewest copies of 2 methods and strengths that work for all suspects: many 3, 1 of" in out
    )
    assert "easy 1: not for 9 of 10 suspects (no attention maps: not here)" in out
