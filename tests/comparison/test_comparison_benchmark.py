"""The benchmark of comparisons: its parts, its time, and records of several runs."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import compare as benchmark
import compare_page
import detectors
from unmemorize import Comparison, RunError
from unmemorize.comparison import ALL_GROUPS, DetectorRow, FoundGroup
from unmemorize.metrics import Separation, auroc


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
    """Batches are larger on a card, which changes nothing but rounding."""
    small, large = {"batch": 10}, {"batch": 240}
    record(tmp_path / "dsm.json", "dsm", captions=None, seeds=4, generation=small)
    record(tmp_path / "curvature.json", "curvature", captions=500, seeds=4, generation=large)
    comparison, _ = compare_page.joined(tmp_path)
    assert comparison is not None
    assert [row.name for row in comparison.detectors] == ["curvature", "dsm"]
    record(tmp_path / "pads.json", "pads", captions=500, seeds=10, generation=small)
    with pytest.raises(RunError, match="other settings"):
        compare_page.joined(tmp_path)


def test_an_outcome_is_said_in_a_line() -> None:
    area = auroc([2.0, 3.0], [0.0, 1.0])
    group = FoundGroup(auroc=area, tpr=area, found=2, suspects=2)
    row = DetectorRow(name="dsm", groups={ALL_GROUPS: group})
    comparison = Comparison(
        model="m", planted=True, suspects=2, confirmed=None, detectors=(row,), methods=(), failed={}
    )
    assert benchmark.outcome(comparison).startswith("AUROC 1.000")
    assert "pads" in benchmark.outcome(replace(comparison, failed={"pads 0.5": "out of luck"}))


def a_detector(name: str, planted: list[float], *, samples: int, alarms: int = 0) -> Any:
    """Ordinary captions have scores from 0 to .99, the first test captions of them 9."""
    ordinary = [number / 100 for number in range(100)]
    row = DetectorRow(name=name, rate=0.01, test=100, samples=samples, groups={})
    lines = [[score] for score in planted + ordinary + [9.0] * alarms + ordinary[alarms:]]
    return detectors.Scores.of(row, lines, len(planted))


def test_each_half_chooses_and_the_other_one_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "auroc", exact)
    halves, natural = ["a", "b", "a", "b"], [True, True, False, False]
    dear = a_detector("seed-similarity", [5.0] * 4, samples=10)
    good_for_a = a_detector("dsm", [5.0, 0.5, 5.0, 5.0], samples=4, alarms=3)
    good_for_b = a_detector("sharpness", [0.995, 5.0, 0.25, 5.0], samples=2)
    scores = [dear, good_for_a, good_for_b]
    first, second = detectors.reports(scores, halves, natural)
    assert (first.half, first.chosen, second.half, second.chosen) == ("a", "dsm", "b", "sharpness")
    assert (first.found, first.plants, first.found_natural, first.natural) == (1, 2, 0, 1)
    assert (second.found, second.plants, second.found_natural, second.natural) == (1, 2, 1, 1)
    assert (first.false_alarms, second.false_alarms, first.test) == (3, 0, 100)
    assert first.area.value == pytest.approx(exact([0.5, 5.0], good_for_a.test).value)
    pooled = detectors.pooled(scores, [first, second])
    assert pooled.area == pytest.approx((first.area.value + second.area.value) / 2)
    assert (pooled.found, pooled.plants, pooled.missed_natural, pooled.samples) == (2, 4, 1, 4)
    assert not pooled.reached
    assert replace(pooled, area=0.995).reached
    assert not replace(pooled, area=0.995, missed_natural=2).reached
    assert detectors.reports([dear], halves, natural) == []


def exact(ours: Any, others: Any) -> Separation:
    """The share of pairs in the right order, without an interval."""
    value = sum((a > b) + (a == b) / 2 for a in ours for b in others) / len(ours) / len(others)
    return Separation(value, value, value)


def test_detectors_that_weigh_parts_have_units_from_the_calibration() -> None:
    row = DetectorRow(name="anisotropy", test=2, groups={})
    calibration = [[0.0, 1.0, 5.0], [0.0, 3.0, 7.0], *[[0.0, 2.0, 6.0]] * 8]
    lines = [[0.0, 4.0, 6.0], *calibration, [0.0, 2.0, 8.0], [0.0, 2.0, 6.0]]
    scores = detectors.Scores.of(row, lines, 1)
    assert scores.planted == pytest.approx((2**0.5,))  # (4 - 2) / the deviation of 1 and 3
    assert scores.calibration == pytest.approx((0.0,) * 8)
    assert scores.test == pytest.approx((2**0.5, 0.0))
