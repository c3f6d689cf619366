"""Differences of weights that are kept as two factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unmemorize._errors import EditError
from unmemorize._files import refuse_other_type


@dataclass(frozen=True, eq=False)
class LowRank:
    """A matrix B A, or the kernels of a convolution that are B A when they are flattened.

    It is exact: a weight W becomes W + B A, with no other factor. The factors are float32, on the
    CPU.

    Args:
        up: B, (features, rank).
        down: A, (rank, inputs), of a convolution (rank, inputs, height, width).

    Raises:
        EditError: these are no factors of one matrix.

    Examples:
        >>> added = LowRank(torch.ones(3, 1), torch.tensor([[1.0, 2.0]]))
        >>> added.shape, added.rank
        (torch.Size([3, 2]), 1)
        >>> added.product()[0]
        tensor([1., 2.])
    """

    up: Tensor
    down: Tensor

    def __post_init__(self) -> None:
        for name in ("up", "down"):
            refuse_other_type(name, getattr(self, name), Tensor, EditError, "Give a matrix.")
        if self.up.ndim != 2 or self.down.ndim < 2 or self.up.shape[1] != len(self.down):
            raise EditError(
                f"factors of the shapes {tuple(self.up.shape)} and {tuple(self.down.shape)}: they "
                "have no product. Give B (features, rank) and A (rank, inputs, ...)."
            )
        for name in ("up", "down"):
            factor: Tensor = getattr(self, name)
            object.__setattr__(self, name, factor.detach().to("cpu", torch.float32).contiguous())

    @property
    def shape(self) -> torch.Size:
        """The shape of the product."""
        return torch.Size((len(self.up), *self.down.shape[1:]))

    @property
    def rank(self) -> int:
        """The number of columns of B, which the rank of the product does not exceed."""
        return len(self.down)

    def product(self) -> Tensor:
        """Return B A, float32.

        It is computed in float64 and rounded once, so every use of the edit adds the same bits.
        """
        product = self.up.double() @ self.down.double().flatten(1)
        return product.view(self.shape).float()


Difference = Tensor | LowRank
"""What is added to a weight: all of it, or its factors."""


def whole(difference: Difference) -> Tensor:
    """Return a difference as one tensor."""
    return difference.product() if isinstance(difference, LowRank) else difference


def total(first: Difference, second: Difference) -> Difference:
    """Add two differences of a weight: in factors if both are, else float64, on the CPU."""
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        return LowRank(
            torch.cat([first.up, second.up], dim=1), torch.cat([first.down, second.down])
        )
    return whole(first).to("cpu", torch.float64) + whole(second).to("cpu", torch.float64)
