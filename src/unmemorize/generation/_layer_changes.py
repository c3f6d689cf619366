"""What an edit does to the weights of one linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerChange:
    """A change of a linear layer: the weight W becomes F W P, and the bias b becomes F b.

    F is diagonal and scales outputs. P maps the layer's input to another one. All edits are of this
    form, and so is one after another.

    Args:
        factors: index of an output -> what it is multiplied by. Other outputs stay.
        inputs: the matrix P, (inputs, inputs), float64. None where inputs stay.

    Examples:
        >>> change = LayerChange({1: 0.5}).then(LayerChange({1: 0.5}))
        >>> change.of_weight(torch.ones(2, 2))
        tensor([[1.0000, 1.0000],
                [0.2500, 0.2500]], dtype=torch.float64)
    """

    factors: Mapping[int, float] = field(default_factory=dict)
    inputs: Tensor | None = None

    def then(self, later: LayerChange) -> LayerChange:
        """Return the change that makes this one and then the later one."""
        factors = dict(self.factors)
        for index, factor in later.factors.items():
            factors[index] = factors.get(index, 1.0) * factor
        matrices = [matrix for matrix in (self.inputs, later.inputs) if matrix is not None]
        inputs = matrices[0] @ matrices[1] if len(matrices) == 2 else next(iter(matrices), None)
        return LayerChange(factors, inputs)

    def of_weight(self, weight: Tensor) -> Tensor:
        """Return the changed weight (features, inputs), float64, on the CPU.

        Values that the change leaves alone are exactly those of before.
        """
        changed = weight.detach().to("cpu", torch.float64, copy=True)
        if self.inputs is not None:
            changed = changed @ self.inputs
        return self.of_bias(changed)

    def of_bias(self, bias: Tensor) -> Tensor:
        """Return the changed bias (features,), float64, on the CPU."""
        changed = bias.detach().to("cpu", torch.float64, copy=True)
        for index, factor in self.factors.items():
            changed[index] = changed[index] * factor + 0.0  # the sum turns -0.0 into 0.0
        return changed
