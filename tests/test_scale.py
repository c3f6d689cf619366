"""The page on scale is what its benchmark writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import scale

ROOT = Path(__file__).parents[1]
NUMBER = re.compile(r"\d[\d,.]*%?")
MEASURED: dict[str, Any] = {
    "overhead": {"in process": 0.00018, "1 worker": 0.00028, "2 workers": 0.00034},
    "load": {"in process": 0.0, "1 worker": 4.8, "2 workers": 5.0},
    "prompt seconds": 13e-6,
    "detect": {
        "in process": {"per second": 24.76, "samples": [2, 2, 2, 2, 6], "bytes per record": 261},
        "1 worker": {"per second": 27.06},
        "2 workers": {"per second": 43.31},
    },
    "localize": {
        "in process": {"per second": 0.63, "samples": [5, 10, 34, 44, 457]},
        "1 worker": {"per second": 0.63},
        "2 workers": {"per second": 0.86},
    },
}


def without_units(page: str) -> list[str]:
    """The lines of a page without its numbers; simulated times choose their units."""
    return [NUMBER.sub("N", line) for line in page.splitlines() if not line.startswith("| 10^")]


def test_the_page_is_that_of_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "_SIMULATED", 100)
    growth = json.loads((ROOT / "benchmarks/records/growth.json").read_text(encoding="utf-8"))
    machine = scale.Machine(tflops=100.0, losses=0.001, called=0.001)
    page = scale.page(MEASURED, machine, 0.8e12, growth)
    published = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    assert without_units(page) == without_units(published)
    rows = [line for line in published.splitlines() if "| 10,000 |" in line]
    assert len(rows) == 4
    assert all(row in page for row in rows)
    words = " ".join(page.split())
    assert "2.8 denoiser samples on average" in words
    assert "110 weighted samples to localize (median 34, highest 457)" in words
    # 8 prompts of 2.8 samples of .8 TFLOP at 100 TFLOP/s, over .34 ms
    assert "keeps about 527 such GPUs busy" in words
    assert "leaves 104 GB of records" in words
    assert "take 2.3 minutes to detect" in words
