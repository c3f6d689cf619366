"""Factors of differences of weights, and edits that are cut to a rank, beside NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unmemorize import EditError, NeuronEdit, Neurons
from unmemorize.generation import LowRank, WeightEdit, truncate, whole


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_product_is_rounded_once() -> None:
    """Rank 500, where sums in float32 would differ in most entries."""
    up, down = noise(1, 6, 500), noise(2, 500, 3, 2, 2)
    product = LowRank(up, down).product()
    assert product.shape == LowRank(up, down).shape == (6, 3, 2, 2)
    exact = np.einsum("fr,rihw->fihw", up.double().numpy(), down.double().numpy())
    assert product.dtype == torch.float32
    assert np.array_equal(product.numpy(), exact.astype(np.float32))
    assert not torch.equal(product.flatten(1), up @ down.flatten(1))


def test_factors_are_kept_in_float32() -> None:
    factors = LowRank(noise(1, 6, 2).double().T.contiguous().T, noise(2, 2, 3).double())
    assert (factors.up.dtype, factors.down.dtype) == (torch.float32, torch.float32)
    assert torch.equal(factors.up, noise(1, 6, 2))
    assert whole(factors).equal(factors.product())
    assert whole(factors.up) is factors.up


@pytest.mark.parametrize(
    ("up", "down"), [((3, 2), (1, 4)), ((3,), (1, 4)), ((3, 1), (1,)), ((3, 1, 1), (1, 4))]
)
def test_factors_without_a_product_are_refused(up: tuple[int, ...], down: tuple[int, ...]) -> None:
    with pytest.raises(EditError, match="they have no product"):
        LowRank(torch.ones(up), torch.ones(down))


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (6, 3, 3, 3)])
@pytest.mark.parametrize("rank", [1, 3])
def test_the_nearest_matrix_of_a_rank(shape: tuple[int, ...], rank: int) -> None:
    """Beside singular values; biases and normalizations count as left off."""
    matrix, bias = noise(1, *shape), noise(2, shape[0])
    cut = truncate(WeightEdit({"a.weight": matrix, "a.bias": bias}, "esd"), rank)
    left, values, right = np.linalg.svd(matrix.flatten(1).double().numpy(), full_matrices=False)
    values[rank:] = 0
    nearest = torch.from_numpy((left * values) @ right).view(shape)
    ((name, factors),) = cut.edit.differences.items()
    assert isinstance(factors, LowRank)
    assert (name, factors.rank) == ("a.weight", rank)
    assert torch.allclose(factors.product().double(), nearest, atol=1e-6)
    missed = (matrix - nearest).square().sum() + bias.square().sum()
    share = float(missed / (matrix.square().sum() + bias.square().sum())) ** 0.5
    assert cut.left_off == pytest.approx(share, rel=1e-5)
    assert cut.edit.source == f"esd, cut to rank {rank}, {100 * share:.2f} % left off"


def test_factors_of_a_low_rank_stay() -> None:
    low, high = (LowRank(noise(1, 8, rank), noise(2, rank, 8)) for rank in (2, 4))
    cut = truncate(WeightEdit({"a.weight": low}), 2)
    assert cut.edit.differences["a.weight"] is low
    assert (cut.left_off, cut.edit.source) == (0, "training, cut to rank 2, 0.00 % left off")
    both = truncate(WeightEdit({"a.weight": low, "b.weight": high}), 3).edit.differences
    assert both["a.weight"] is low
    factors = both["b.weight"]
    assert isinstance(factors, LowRank)
    assert factors.rank == 3


def test_a_rank_above_that_of_the_matrix_leaves_nothing_off() -> None:
    cut = truncate(WeightEdit({"a.weight": noise(1, 4, 6)}), 50)
    assert cut.edit.rank == 4
    assert cut.left_off < 1e-6


@pytest.mark.parametrize(
    ("edit", "rank", "message"),
    [
        (WeightEdit({"a.weight": torch.ones(2, 2)}), 0, "rank=0: at least 1"),
        (
            WeightEdit({"a.weight": torch.ones(2, 2)}),
            1.5,
            r"rank=1\.5: a value of type float, not int",
        ),
        (NeuronEdit(Neurons({"a": [1]})), 1, "kind neurons: only trained weights"),
        (WeightEdit({"a.bias": torch.ones(2)}), 1, "biases and normalizations alone"),
    ],
)
def test_what_cannot_be_cut(edit: WeightEdit, rank: Any, message: str) -> None:
    with pytest.raises(EditError, match=message):
        truncate(edit, rank)
