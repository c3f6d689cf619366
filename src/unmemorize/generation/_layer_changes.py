"""What an edit does to the weights of one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unmemorize._errors import EditError
from unmemorize.generation._low_rank import Difference, LowRank, total, whole


@dataclass(frozen=True, eq=False)
class LayerChange:
    """A change of a layer: the weight W becomes F Z(W) P + D, and the bias b becomes F b + d.

    Z sets entries of W to zero, F is diagonal and scales outputs, P maps the layer's input to
    another one, and D and d are differences. All edits are of this form, and so is one after
    another, as long as no edit of a layer comes before its zeros.

    Args:
        factors: index of an output -> what it is multiplied by. Other outputs stay.
        inputs: the matrix P, (inputs, inputs), float64. None where inputs stay.
        zeros: flat indices of the entries of the weight that become zero, int64. None for none.
        added: "weight" or "bias" -> what is added, of the shape of the weight or bias; that to a
            weight may be in factors.

    Examples:
        >>> change = LayerChange({1: 0.5}).then(LayerChange({1: 0.5}))
        >>> change.of_weight(torch.ones(2, 2))
        tensor([[1.0000, 1.0000],
                [0.2500, 0.2500]], dtype=torch.float64)
        >>> change.then(LayerChange(added={"weight": torch.ones(2, 2)})).of_weight(torch.ones(2, 2))
        tensor([[2.0000, 2.0000],
                [1.2500, 1.2500]], dtype=torch.float64)
    """

    factors: Mapping[int, float] = field(default_factory=dict)
    inputs: Tensor | None = None
    zeros: Tensor | None = None
    added: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def low_rank(self) -> LowRank | None:
        """The factors of what is added to the weight, where this is all that becomes of it."""
        added = self.added.get("weight")
        alone = not self.factors and self.inputs is None and self.zeros is None
        return added if alone and isinstance(added, LowRank) else None

    @property
    def is_dense(self) -> bool:
        """Whether it is not known by factors, so its rank is that of its values."""
        weight = self.added.get("weight")
        return self.zeros is not None or not (weight is None or isinstance(weight, LowRank))

    @property
    def changes_bias(self) -> bool:
        """Whether a bias changes, if the layer has one."""
        return bool(self.factors) or "bias" in self.added

    def then(self, later: LayerChange) -> LayerChange:
        """Return the change that makes this one and then the later one.

        Raises:
            EditError: the later one sets weights to zero that this one has changed.
        """
        if later.zeros is not None and (self.factors or self.inputs is not None or self.added):
            raise EditError(
                "weights are set to zero after another edit of their layer. "
                "Make the pruning the first of the combined edits."
            )
        factors = dict(self.factors)
        for index, factor in later.factors.items():
            factors[index] = factors.get(index, 1.0) * factor
        matrices = [matrix for matrix in (self.inputs, later.inputs) if matrix is not None]
        inputs = matrices[0] @ matrices[1] if len(matrices) == 2 else next(iter(matrices), None)
        zeros = [indices for indices in (self.zeros, later.zeros) if indices is not None]
        # F' (F W P + D) P' + D' = F' F W P P' + (F' D P' + D')
        added = {name: later._moved(name, each) for name, each in self.added.items()}
        for name, difference in later.added.items():
            added[name] = total(added[name], difference) if name in added else difference
        return LayerChange(factors, inputs, torch.cat(zeros).unique() if zeros else None, added)

    def _moved(self, name: str, difference: Difference) -> Difference:
        """Return F D P, or F d of a bias."""
        inputs = self.inputs if name == "weight" else None
        if isinstance(difference, LowRank):
            up, down = self._scaled(difference.up), difference.down
            return LowRank(up, down if inputs is None else down.double() @ inputs)
        scaled = self._scaled(difference)
        return scaled if inputs is None else scaled @ inputs

    def of_weight(self, weight: Tensor) -> Tensor:
        """Return the changed weight, of the same shape such as (features, inputs), on the CPU.

        It is float64. Values that the change leaves alone are exactly those of before.
        """
        changed = weight.detach().to(
            "cpu", torch.float64, copy=True, memory_format=torch.contiguous_format
        )
        if self.zeros is not None:
            changed.view(-1)[self.zeros] = 0.0
        if self.inputs is not None:
            changed = changed @ self.inputs
        return self._with_added("weight", self._scaled(changed))

    def of_bias(self, bias: Tensor) -> Tensor:
        """Return the changed bias (features,), float64, on the CPU."""
        return self._with_added("bias", self._scaled(bias))

    def _scaled(self, rows: Tensor) -> Tensor:
        changed = rows.detach().to("cpu", torch.float64, copy=True)
        for index, factor in self.factors.items():
            changed[index] = changed[index] * factor + 0.0  # the sum turns -0.0 into 0.0
        return changed

    def _with_added(self, name: str, value: Tensor) -> Tensor:
        difference = self.added.get(name)
        if difference is None:
            return value
        added = whole(difference).to("cpu", torch.float64)
        return torch.where(added == 0, value, value + added)  # keeps the sign of zeros
