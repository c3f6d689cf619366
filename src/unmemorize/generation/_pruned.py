"""Single weights that are set to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import index
from typing import Any, ClassVar, Literal

import torch

from unmemorize._errors import EditError
from unmemorize._files import from_json, refuse_other_type
from unmemorize.generation._added_outputs import added_outputs, layer_of
from unmemorize.generation._layer_changes import LayerChange
from unmemorize.pipelines import Model, effective_weights, weights_of


@dataclass(frozen=True)
class PrunedEdit:
    """Single weights of layers are set to zero.

    Args:
        entries: path of a layer -> flat indices into its weight.

    Raises:
        EditError: there is no entry, or an index is negative or no whole number.

    Examples:
        >>> edit = PrunedEdit({"mid_block.ff.net.2": (7, 3)})
        >>> edit.entries
        {'mid_block.ff.net.2': (3, 7)}
        >>> PrunedEdit.from_json(edit.to_json()) == edit
        True
    """

    kind: ClassVar[str] = "pruned"

    entries: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        way_out = "Give a layer's path -> flat indices into its weight."
        refuse_other_type("entries", self.entries, Mapping, EditError, way_out)
        entries: dict[str, tuple[int, ...]] = {}
        for path, indices in sorted(self.entries.items()):
            try:
                kept = tuple(sorted(set(map(index, indices))))
            except TypeError as problem:
                raise EditError(f"{path}={indices!r:.60}: no whole numbers. {way_out}") from problem
            if kept:
                entries[path] = kept
        if not entries:
            raise EditError("entries={}: no weight to set to zero. Name at least one.")
        lowest = min(indices[0] for indices in entries.values())
        if lowest < 0:
            raise EditError(f"index {lowest}: indices into a weight count from 0.")
        object.__setattr__(self, "entries", entries)

    def changes(self, model: Model) -> dict[str, LayerChange]:
        """See `Edit`.

        Raises:
            EditError: the model has no such layer, or the layer no such weight.
        """
        self._check(model)
        return {
            path: LayerChange(zeros=torch.tensor(indices)) for path, indices in self.entries.items()
        }

    def applied(self, model: Model, rows: Sequence[bool]) -> AbstractContextManager[None]:
        """See `Edit`.

        Raises:
            EditError: the model has no such layer, or the layer no such weight.
        """
        self._check(model)
        differences = {}
        for path, indices in self.entries.items():
            weight = effective_weights(layer_of(model, path))["weight"]
            difference = torch.zeros_like(weight, memory_format=torch.contiguous_format)
            difference.view(-1)[list(indices)] = -weight.reshape(-1)[list(indices)]
            differences[path] = {"weight": difference}
        return added_outputs(model, differences, rows)

    def to_json(self) -> dict[str, Any]:
        """Return kind and entries."""
        entries = {path: list(indices) for path, indices in self.entries.items()}
        return {"kind": self.kind, "entries": entries}

    @classmethod
    def from_json(cls, value: Any) -> PrunedEdit:
        """Make an edit from what `to_json` returned.

        Raises:
            EditError: the value is another kind of edit, or damaged.
        """
        content = from_json(
            _Content, value, EditError, "not a valid edit that prunes", "Make the edit again."
        )
        return cls(content.entries)

    def _check(self, model: Model) -> None:
        for path, indices in self.entries.items():
            size = weights_of(layer_of(model, path))["weight"].numel()
            if indices[-1] >= size:
                raise EditError(
                    f"{path}: its weight has {size} entries, so there is no entry {indices[-1]}. "
                    "Load the model that the edit belongs to."
                )


@dataclass(frozen=True)
class _Content:
    kind: Literal["pruned"]
    entries: dict[str, tuple[int, ...]]
