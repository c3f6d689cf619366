"""What is kept of a training that is not finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unmemorize._errors import RunError
from unmemorize.methods import StepsDone, _unfinished, saved, steps_done
from unmemorize.methods._unfinished import Unfinished


class _One:
    """A single parameter, and what was written into the model."""

    def __init__(self) -> None:
        value = torch.tensor([1.0, 2.0], dtype=torch.float32)
        self.parameters: Mapping[str, Tensor] = {"value": value.requires_grad_(True)}
        self.written = 0

    def write(self) -> None:
        self.written += 1


def train(folder: Path | None, *, killed: int | None = None) -> tuple[_One, list[int]]:
    """Take 7 steps, of which 3 at a time are kept. Each has a gradient that is drawn."""
    one, taken = _One(), list[int]()
    generator = torch.Generator().manual_seed(3)

    def take(steps: range, optimizer: torch.optim.AdamW) -> None:
        for step in steps:
            if step == killed:
                raise KeyboardInterrupt
            draw = torch.randn(2, generator=generator, dtype=torch.float32)
            one.parameters["value"].grad = draw
            optimizer.step()
            taken.append(step)

    Unfinished(folder).train(one, 0.1, 7, 3, generator, take)
    return one, taken


@pytest.mark.parametrize(("killed", "again"), [(2, 0), (3, 3), (5, 3), (6, 6)])
def test_a_killed_training_goes_on_where_it_was(tmp_path: Path, killed: int, again: int) -> None:
    whole, _ = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, killed=killed)
    resumed, taken = train(tmp_path)
    assert torch.equal(resumed.parameters["value"], whole.parameters["value"])
    assert taken == list(range(again, 7))
    assert resumed.written == (again > 0)  # what was kept is in the model before the next step
    assert train(tmp_path)[1] == []


def test_the_state_is_not_collected_where_nothing_keeps_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[object] = []
    usual = saved

    def noted(trained: _One, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
        calls.append(trained)
        return usual(trained, optimizer)

    monkeypatch.setattr(_unfinished, "saved", noted)
    train(None)
    assert not calls
    train(tmp_path)
    assert len(calls) == 3


def test_others_see_how_many_steps_are_done(tmp_path: Path) -> None:
    folder = tmp_path / "denoiser-0123456789"
    assert steps_done(folder) == StepsDone()
    Unfinished(folder).write("latents.safetensors", {"latents": torch.zeros(1)})
    begun = steps_done(folder)
    assert (begun.steps, begun.rate) == (0, None)
    assert begun.idle is not None
    with pytest.raises(KeyboardInterrupt):
        train(folder, killed=4)
    kept = steps_done(folder)
    assert kept.steps == 3
    assert kept.rate is not None
    assert kept.rate > 0
    path = folder / "state.safetensors"
    state = load_file(path)
    del state["rate"]  # as earlier versions kept it
    save_file(state, path)
    earlier = steps_done(folder)
    assert (earlier.steps, earlier.rate) == (3, None)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    train(tmp_path)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunError, match=r"state\.safetensors: the file of an unfinished training"):
        steps_done(tmp_path)
