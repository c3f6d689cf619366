"""The page on scale is what its benchmark writes from the committed records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import scale
from unmemorize import Threshold, testbed

RECORDS = Path(__file__).parents[1] / "benchmarks" / "records"
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"


@pytest.fixture(name="measured")
def measured_fixture() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDS / "scale.json").read_text(encoding="utf-8"))
    return found


def test_the_page_is_made_of_the_committed_records(
    measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All lines but the longest simulations, of which as many units count as the first ones."""
    monkeypatch.setattr(scale, "PROMPTS", (10**4,))
    growth = json.loads((RECORDS / "growth.json").read_text(encoding="utf-8"))
    machine = scale.Machine(tflops=100.0, losses=0.001, called=0.001)
    page = scale.page(measured, machine, scale.flops_of_a_sample(), growth)
    published = PAGE.read_text(encoding="utf-8").splitlines()
    left_out = [line for line in published if line.startswith(("| 10^6", "| 10^8", "| 10^9"))]
    assert len(left_out) == 12
    assert page.splitlines() == [line for line in published if line not in left_out]


def test_the_detector_of_the_page_is_the_default_one(measured: dict[str, Any]) -> None:
    found = measured["detect"]
    assert found["detector"] == Threshold.load(testbed.threshold_path()).detect.detector
    assert set(found["samples"]) == {2}
    assert found["shared"] == 2
    words = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert "A prompt takes 2 denoiser samples to detect (`late-noise-magnitude`" in words
    # 8 prompts of 2 samples of .8033 TFLOP at 100 TFLOP/s, over .2905 ms of the main process
    assert "keeps about 442 such GPUs busy" in words
    # 50,000 prompts of 2 samples on 8 GPUs: 100.4 s
    assert "take 1.7 minutes to detect" in words
