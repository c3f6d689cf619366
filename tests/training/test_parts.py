import hashlib
from pathlib import Path

import pytest
import torch

from training.loop import Schedule, Trained
from training.parts import Parts, Record


class Trainer:
    """Makes another weight at each call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Trained:
        self.calls += 1
        weights = {"weight": torch.full((2,), self.calls + 1e-5), "count": torch.tensor(3)}
        return Trained(weights, ({"step": 50, "loss": 0.5}, {"step": 60, "loss": 0.25}), 12.34)


SCHEDULE = Schedule(steps=60)


def test_a_part_is_trained_once_and_rounded(tmp_path: Path) -> None:
    trainer, parts = Trainer(), Parts(tmp_path, tmp_path / "none")
    first = parts.get("net", SCHEDULE, {"data": "1"}, trainer)
    again = Parts(tmp_path, tmp_path / "none").get("net", SCHEDULE, {"data": "1"}, trainer)
    assert trainer.calls == 1
    assert first.weights["weight"].dtype == torch.float16
    assert first.weights["count"].dtype == torch.int64
    assert torch.equal(first.weights["weight"], again.weights["weight"])
    assert first.record == again.record


@pytest.mark.parametrize(
    ("schedule", "inputs"), [(SCHEDULE, {"data": "2"}), (Schedule(steps=61), {"data": "1"})]
)
def test_other_data_or_settings_train_again(
    tmp_path: Path, schedule: Schedule, inputs: dict[str, str]
) -> None:
    trainer, parts = Trainer(), Parts(tmp_path, tmp_path / "none")
    parts.get("net", SCHEDULE, {"data": "1"}, trainer)
    assert parts.get("net", schedule, inputs, trainer).weights["weight"][0] == 2


def test_shipped_parts_are_taken(tmp_path: Path) -> None:
    trainer = Trainer()
    elsewhere = Parts(tmp_path / "elsewhere", tmp_path / "none")
    shipped = elsewhere.get("net", SCHEDULE, {"data": "1"}, trainer)
    parts = Parts(tmp_path / "work", elsewhere.folder)
    assert parts.get("net", SCHEDULE, {"data": "1"}, trainer).record == shipped.record
    assert trainer.calls == 1
    assert (tmp_path / "work" / "parts" / "net.safetensors").exists()
    parts.get("net", SCHEDULE, {"data": "other"}, trainer)
    assert trainer.calls == 2


def test_the_record_tells_how_a_part_was_made(tmp_path: Path) -> None:
    Parts(tmp_path, tmp_path / "none").get("net", SCHEDULE, {"data": "1"}, Trainer())
    record = Record.load(tmp_path / "parts" / "net.json")
    weights = (tmp_path / "parts" / "net.safetensors").read_bytes()
    assert record.sha256 == hashlib.sha256(weights).hexdigest()
    assert record.schedule["steps"] == 60
    assert record.seconds == 12.3
    assert record.threads == torch.get_num_threads()
    assert record.versions["torch"] == torch.__version__
    assert record.curve == ({"step": 50, "loss": 0.5}, {"step": 60, "loss": 0.25})
