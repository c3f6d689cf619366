"""How work is timed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unmemorize.pipelines import seconds_of


@pytest.mark.parametrize(("device", "waits"), [("cpu", 0), ("cuda:1", 2), ("mps", 2)])
def test_the_second_of_two_times_counts_to_the_end_of_the_work(
    monkeypatch: pytest.MonkeyPatch, device: str, waits: int
) -> None:
    """Work takes 7 seconds at first, then 2, and a device takes 10 more after each call."""
    now, calls = [0.0], list[float]()
    model: Any = SimpleNamespace(device=torch.device(device))

    def work() -> None:
        now[0] += 2.0 if calls else 7.0
        calls.append(now[0])

    def synchronize(waited: torch.device) -> None:
        assert waited == model.device
        now[0] += 10.0

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    assert seconds_of(model, work) == (12.0 if waits else 2.0)
    assert len(calls) == 2
    assert now == [9.0 + 10.0 * waits]
