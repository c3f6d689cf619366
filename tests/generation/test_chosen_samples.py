"""Which samples of a batch an edit concerns."""

from __future__ import annotations

import pytest
import torch

from unmemorize import ModelError
from unmemorize.generation._chosen_samples import ChosenSamples


def test_samples_of_both_halves() -> None:
    samples = ChosenSamples([False, True, True])
    for length, expected in ((3, [1, 2]), (6, [1, 2, 4, 5])):
        batch = torch.arange(float(length))
        assert batch[samples.of(batch)].tolist() == expected


def test_all_samples_need_no_indices() -> None:
    samples = ChosenSamples([True, True])
    assert samples.of(torch.zeros(4)) == slice(None)


def test_indices_are_placed_once() -> None:
    samples = ChosenSamples([True, False])
    first = samples.of(torch.zeros(4))
    assert first is samples.of(torch.ones(4))
    assert first is not samples.of(torch.zeros(2))
    assert isinstance(first, torch.Tensor)
    assert first.dtype == torch.int64  # a mask would have to be counted first


def test_indices_from_inference_serve_a_backward_pass() -> None:
    samples = ChosenSamples([True, False])
    with torch.inference_mode():
        samples.of(torch.zeros(2))
    weights = torch.ones(2, requires_grad=True)
    weights[samples.of(weights)].sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [1.0, 0.0]


def test_a_batch_that_does_not_fit() -> None:
    with pytest.raises(ModelError, match="an edit of 2 samples does not fit a batch of 3"):
        ChosenSamples([True, False]).of(torch.zeros(3))
