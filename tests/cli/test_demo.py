import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmemorize import NeuronFile, Run, Statistics, Threshold, testbed
from unmemorize.cli import demo
from unmemorize.localization import read_localizations

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo on few prompts and short generations."""
    modes = ("memory", "natural", "rare")
    entries = tuple(
        next(entry for entry in testbed.planted() if entry.mode == mode) for mode in modes
    )
    own = {**testbed.defaults(), "steps": 5}
    captions = testbed.captions
    monkeypatch.setattr(demo, "UNMEMORIZED", 3)
    monkeypatch.setattr(testbed, "planted", lambda: entries)
    monkeypatch.setattr(testbed, "defaults", lambda: own)
    monkeypatch.setattr(testbed, "captions", lambda split: captions(split)[:8])


@pytest.mark.usefixtures("short")
def test_demo_ends_with_a_table_and_a_report(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("demo", "-o", tmp_path / "run", "--images", 2)
    assert code == 0
    assert "report.html" in out
    neurons = NeuronFile.load(tmp_path / "run" / "neurons.json")
    records = read_localizations(Run.load(tmp_path / "run")).values()
    assert neurons.found["prompts"] == len(records) == 6
    assert set(neurons.neurons) == {pair for record in records for pair in record.neurons} != set()
    table = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = {row["label"]: row["cells"] for row in table["rows"]}
    assert table["columns"] == ["overall", "VM", "rare (0.1 of the dose)", "unmemorized"]
    assert rows["detected as memorized"]["unmemorized"]["figure"] == "0 of 3"
    assert rows["precision, known neurons"]["VM"]["figure"].endswith("(n=1)")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "eileen poses" in page
    assert "against the known neurons" in page
    before = Run.load(tmp_path / "run").records("localizations")
    assert cli("demo", "-o", tmp_path / "run", "--images", 2)[0] == 0
    assert Run.load(tmp_path / "run").records("localizations") == before


@pytest.mark.usefixtures("short")
def test_full_makes_its_own_statistics_and_threshold(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {}

    def record(*_: object, **named: object) -> None:
        arguments.update(named)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "localize_all", record)
    assert cli("demo", "-o", tmp_path / "run", "--full")[0] == 130
    assert arguments["statistics"].count == 8
    assert len(arguments["threshold"].detect.scores) == 8
    assert arguments["threshold"].detect.reduction == "conformal"
    code, _, err = cli("demo", "-o", tmp_path / "run")
    assert (code, "this run was made with" in err) == (1, True)
    assert cli("demo", "-o", tmp_path / "plain")[0] == 130
    assert arguments["statistics"].prompts == Statistics.load(testbed.statistics_path()).prompts
    assert arguments["threshold"] == Threshold.load(testbed.threshold_path())
    assert arguments["settings"].criterion == "seeds"
