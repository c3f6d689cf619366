"""The benchmark of comparisons: its parts, its time, and records of several runs."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import compare as benchmark
from unmemorize import Comparison, RunError
from unmemorize.comparison import ALL_GROUPS, DetectorRow, FoundGroup
from unmemorize.metrics import auroc


def test_defaults_come_before_grids() -> None:
    names = ["pads", "noise-batch", "dsm", "wanda=0.05"]
    assert [str(part) for part in benchmark.parts_of(names)] == [
        "dsm",
        *("pads=0.7", "noise-batch=0.7", "wanda=0.05"),
        *("pads=0.3", "pads=0.5", "pads=0.9", "noise-batch=0.35", "noise-batch=1.4"),
    ]
    assert [part.name for part in benchmark.parts_of(["wanda=0.05"])] == ["wanda=0.05"]


def test_no_part_begins_that_would_not_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = benchmark.Clock(150.0)
    assert clock.has_time("pads")
    for taken in (20.0, 10.0):
        with clock.timing("pads"):
            now[0] += taken
    assert clock.longest == {"pads": 20.0}
    assert not clock.has_time("pads")  # 130 + 20
    assert clock.has_time("wanda")
    now[0] = 150.0
    assert not clock.has_time("wanda")


def test_scores_have_few_digits() -> None:
    value = {"a": [1 / 3, 12345678.9, 2, "x", True], "b": (1e-9 / 3,)}
    short = {"a": [0.3333333, 12345680.0, 2, "x", True], "b": [3.333333e-10]}
    assert benchmark.shortened(value) == short


def record(path: Path, name: str, **settings: Any) -> None:
    row = DetectorRow(name=name, groups={})
    empty = Comparison(
        model="m", planted=True, suspects=2, confirmed=None, detectors=(), methods=(), failed={}
    )
    content = {
        "made_of": {"settings": settings, "captions": str(settings["captions"]), "clip": "c"},
        "comparison": replace(empty, detectors=(row,)).to_json(),
    }
    path.write_text(json.dumps(content))


def test_records_may_be_of_fewer_captions_but_not_of_other_settings(tmp_path: Path) -> None:
    record(tmp_path / "dsm.json", "dsm", captions=None, seeds=4)
    record(tmp_path / "curvature.json", "curvature", captions=500, seeds=4)
    comparison, _ = benchmark.joined(tmp_path)
    assert comparison is not None
    assert [row.name for row in comparison.detectors] == ["curvature", "dsm"]
    record(tmp_path / "pads.json", "pads", captions=500, seeds=10)
    with pytest.raises(RunError, match="other settings"):
        benchmark.joined(tmp_path)


def test_an_outcome_is_said_in_a_line() -> None:
    area = auroc([2.0, 3.0], [0.0, 1.0])
    group = FoundGroup(auroc=area, tpr=area, found=2, suspects=2)
    row = DetectorRow(name="dsm", groups={ALL_GROUPS: group})
    comparison = Comparison(
        model="m", planted=True, suspects=2, confirmed=None, detectors=(row,), methods=(), failed={}
    )
    assert benchmark.outcome(comparison).startswith("AUROC 1.000")
    assert "pads" in benchmark.outcome(replace(comparison, failed={"pads 0.5": "out of luck"}))
