"""What a user gets who names a model and suspects, and nothing else."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from unmemorize import testbed

Cli = Callable[..., tuple[int, str, str]]
FULL_DOSE = [entry.prompt.text for entry in testbed.planted() if entry.mode != "rare"]


def detected_on_a_copy(
    cli: Cli, folder: Path, planted: Sequence[str], ordinary: Sequence[str]
) -> tuple[int, int, str]:
    """Follow the README on a copy of the bundled model under another name.

    Returns:
        How many planted and how many ordinary captions are called memorized, and the output.
    """
    shutil.copytree(testbed.path(), folder / "model")
    with (folder / "suspects.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("prompt", "group"))
        writer.writerows((text, "planted") for text in planted)
        writer.writerows((text, "ordinary") for text in ordinary)
    model = ("--model", folder / "model", "--device", "cpu")
    assert cli("statistics", *model)[0] == 0
    assert cli("threshold", *model)[0] == 0
    suspects = ("--prompts", folder / "suspects.csv")
    code, out, _ = cli("detect", *model, *suspects, "-o", folder / "run")
    assert code == 0
    lines = (folder / "run" / "detections.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    called = [record["group"] for record in records if record["memorized"]]
    return called.count("planted"), called.count("ordinary"), out


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMEMORIZE_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_the_chain_of_the_readme_on_few_captions(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmemorize.statistics._ordinary._FOR_THRESHOLDS", 24)
    monkeypatch.setattr("unmemorize.statistics._ordinary._FOR_STATISTICS", 32)
    planted, ordinary, out = detected_on_a_copy(
        cli, tmp_path, FULL_DOSE[::4], testbed.captions("test")[:10]
    )
    assert planted >= 10
    assert ordinary <= 1
    assert f"{planted + ordinary} of 22 memorized (tau = " in out
    assert re.search(r"at most 0\.04 of unmemorized prompts like the 24 of its calibration", out)


@pytest.mark.slow
def test_the_chain_of_the_readme_as_a_user_types_it(cli: Cli, tmp_path: Path) -> None:
    planted, ordinary, out = detected_on_a_copy(
        cli, tmp_path, FULL_DOSE, testbed.captions("test")[:100]
    )
    print(f"planted {planted} of {len(FULL_DOSE)}, ordinary {ordinary} of 100")
    assert len(FULL_DOSE) == 48
    assert planted >= 43
    assert ordinary <= 3
    assert "at most 0.01 of unmemorized prompts like the 500 of its calibration" in out
