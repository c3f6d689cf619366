from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training import loop
from training.loop import Schedule, Trained, to_tensor, train


def run(folder: Path, stops: tuple[int, ...]) -> tuple[Trained, Tensor]:
    """Train a line, interrupted after so many steps of each session."""
    folder.mkdir(exist_ok=True)
    trained = None
    for stop in stops:
        torch.manual_seed(0)
        net = nn.Linear(3, 1)

        def loss_of(
            rng: np.random.Generator, net: nn.Linear = net
        ) -> tuple[Tensor, Mapping[str, float]]:
            inputs = torch.from_numpy(rng.normal(size=(4, 3))).float()
            loss = (net(inputs) - torch.randn(4, 1)).square().mean()
            return loss, {"loss": loss.item()}

        count = 0

        def after(stop: int = stop) -> None:
            nonlocal count
            count += 1
            if count == stop:
                raise KeyboardInterrupt

        try:
            trained = train(
                "net", net, loss_of, Schedule(steps=60, warm_up=5), folder, after_step=after
            )
        except KeyboardInterrupt:
            continue
    assert trained is not None
    return trained, net.weight.detach()


def test_a_resumed_training_is_the_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_STEPS", 10)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    whole, weight = run(tmp_path / "whole", (1000,))
    resumed, resumed_weight = run(tmp_path / "parts", (25, 22, 1000))
    assert torch.equal(weight, resumed_weight)
    assert torch.equal(whole.weights["weight"], resumed.weights["weight"])
    assert whole.curve == resumed.curve
    assert [stretch["step"] for stretch in whole.curve] == [10, 20, 30, 40, 50, 60]
    assert resumed.seconds > 0


def test_a_finished_training_is_not_run_again(tmp_path: Path) -> None:
    first, _ = run(tmp_path, (1000,))
    again, _ = run(tmp_path, (1,))
    assert torch.equal(first.weights["weight"], again.weights["weight"])
    assert first.curve == again.curve


def test_the_learning_rate_rises_and_falls() -> None:
    schedule = Schedule(steps=100, learning_rate=1.0, warm_up=10)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(schedule.rate(9), abs=0.02)
    assert rates[-1] == pytest.approx(0.05, abs=0.01)


def test_a_shorter_training_follows_the_cosine_and_cools_down() -> None:
    long = Schedule(steps=100, learning_rate=1.0, warm_up=10)
    short = Schedule(steps=60, horizon=100, cool_down=20, learning_rate=1.0, warm_up=10)
    for step in range(41):
        assert short.rate(step) == long.rate(step)
    assert short.rate(50) == pytest.approx(long.rate(50) / 2)
    assert short.rate(59) == pytest.approx(long.rate(59) * 0.05)


def test_pixels_become_numbers() -> None:
    images = np.array([[[[0, 51, 255]]]], dtype=np.uint8)
    assert to_tensor(images).flatten().tolist() == pytest.approx([-1, -0.6, 1])
