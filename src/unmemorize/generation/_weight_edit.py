"""Differences of weights, as training leaves them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from unmemorize._errors import EditError
from unmemorize._files import from_json, safetensors_bytes
from unmemorize.generation._added_outputs import added_outputs, layer_of
from unmemorize.generation._layer_changes import LayerChange
from unmemorize.pipelines import Model, weights_of

_NAMES = ("weight", "bias")


@dataclass(frozen=True, eq=False)
class WeightEdit:
    """Something is added to weights and biases of layers.

    Args:
        differences: path of a layer followed by ".weight" or ".bias" -> what is added, float32 of
            the same shape.
        source: how the differences were made, for people, such as "esd".

    Raises:
        EditError: there is no difference, or one of them holds NaN or infinity.

    Examples:
        >>> edit = WeightEdit({"mid_block.attn2.to_k.weight": torch.ones(2, 3)}, "esd")
        >>> WeightEdit.from_json(edit.to_json()) == edit
        True
    """

    kind: ClassVar[str] = "weights"

    differences: Mapping[str, Tensor]
    source: str = ""

    def __post_init__(self) -> None:
        kept = {
            name: difference.detach().to("cpu", torch.float32).contiguous()
            for name, difference in sorted(self.differences.items())
        }
        if not kept:
            raise EditError("differences={}: nothing is added to any weight. Name at least one.")
        for name, difference in kept.items():
            if name.rpartition(".")[2] not in _NAMES:
                raise EditError(f"{name}: not the name of a weight or bias. End it with .weight.")
            if not bool(torch.isfinite(difference).all()):
                raise EditError(
                    f"{name}: its difference holds NaN or infinity. Train with smaller steps."
                )
        object.__setattr__(self, "differences", kept)

    @cached_property
    def _bytes(self) -> bytes:
        return safetensors_bytes(dict(self.differences))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the differences."""
        return hashlib.sha256(self._bytes).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WeightEdit):
            return NotImplemented
        return (self.digest, self.source) == (other.digest, other.source)

    def __hash__(self) -> int:
        return hash((self.digest, self.source))

    def changes(self, model: Model) -> dict[str, LayerChange]:
        """See `Edit`.

        Raises:
            EditError: the model has no such layer, or the layer another shape.
        """
        return {path: LayerChange(added=added) for path, added in self._by_layer(model).items()}

    def applied(self, model: Model, rows: Sequence[bool]) -> AbstractContextManager[None]:
        """See `Edit`.

        Raises:
            EditError: the model has no such layer, or the layer another shape.
        """
        return added_outputs(model, self._by_layer(model), rows)

    def to_json(self) -> dict[str, Any]:
        """Return kind, source, and the differences as a safetensors file in base64."""
        encoded = base64.b64encode(self._bytes).decode("ascii")
        return {"kind": self.kind, "source": self.source, "differences": encoded}

    @classmethod
    def from_json(cls, value: Any) -> WeightEdit:
        """Make an edit from what `to_json` returned.

        Raises:
            EditError: the value is another kind of edit, or damaged.
        """
        problem, way_out = "not a valid edit of weights", "Make the edit again."
        content = from_json(_Content, value, EditError, problem, way_out)
        try:
            differences = load(base64.b64decode(content.differences, validate=True))
        except (binascii.Error, ValueError, SafetensorError) as reason:
            raise EditError(f"{problem} ({reason}). {way_out}") from reason
        return cls(differences, content.source)

    def _by_layer(self, model: Model) -> dict[str, dict[str, Tensor]]:
        layers: dict[str, dict[str, Tensor]] = {}
        for name, difference in self.differences.items():
            path, _, kind = name.rpartition(".")
            weights = weights_of(layer_of(model, path))
            if kind not in weights or weights[kind].shape != difference.shape:
                there = tuple(weights[kind].shape) if kind in weights else "none"
                raise EditError(
                    f"{name}: the edit has the shape {tuple(difference.shape)}, {model.name} has "
                    f"{there}. Load the model that the edit belongs to."
                )
            layers.setdefault(path, {})[kind] = difference
        return layers


@dataclass(frozen=True)
class _Content:
    kind: Literal["weights"]
    source: str
    differences: str
