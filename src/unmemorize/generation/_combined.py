"""Edits one after another, and the kinds of edits by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from unmemorize._errors import EditError
from unmemorize.generation._closed_form import ClosedFormEdit
from unmemorize.generation._edits import Edit, NeuronEdit
from unmemorize.generation._layer_changes import LayerChange
from unmemorize.generation._pruned import PrunedEdit
from unmemorize.generation._weight_edit import WeightEdit
from unmemorize.pipelines import Model


@dataclass(frozen=True)
class CombinedEdit:
    """Edits one after another: each edits the model that the ones before it have edited.

    A neuron edit multiplies what a layer returns, and a closed-form edit what it reads. So these
    two kinds give the same in either order. Two closed-form edits do not.

    Args:
        parts: the edits, the first of which meets the unedited model.

    Raises:
        EditError: there is no part.

    Examples:
        >>> from unmemorize import Erased, Neurons
        >>> weaker = NeuronEdit(Neurons({"attn2.to_v": [3]}), scale=0.5)
        >>> edit = CombinedEdit((ClosedFormEdit((Erased("a cat"),)), weaker))
        >>> edit_from_json(edit.to_json()) == edit
        True
    """

    kind: ClassVar[str] = "combined"

    parts: tuple[Edit, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise EditError("parts=(): no edit to combine. Name at least one.")

    def changes(self, model: Model) -> dict[str, LayerChange]:
        """See `Edit`.

        Raises:
            UnmemorizeError: a part does not fit the model.
        """
        changes: dict[str, LayerChange] = {}
        for part in self.parts:
            for path, change in part.changes(model).items():
                changes[path] = changes.get(path, LayerChange()).then(change)
        return changes

    @contextmanager
    def applied(self, model: Model, rows: Sequence[bool]) -> Iterator[None]:
        """See `Edit`.

        Raises:
            UnmemorizeError: a part does not fit the model.
        """
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.applied(model, rows))
            yield

    def to_json(self) -> dict[str, Any]:
        """Return kind and parts."""
        return {"kind": self.kind, "parts": [part.to_json() for part in self.parts]}

    @classmethod
    def from_json(cls, value: Any) -> CombinedEdit:
        """Make an edit from what `to_json` returned.

        Raises:
            UnmemorizeError: the value is another kind of edit, or a part is damaged.
        """
        parts = value.get("parts") if isinstance(value, dict) else None
        if not isinstance(parts, list) or value.keys() != {"kind", "parts"}:
            raise EditError(
                "not a valid combined edit (it needs kind and a list of parts). Make it again."
            )
        return cls(tuple(map(edit_from_json, parts)))


_KINDS: dict[str, type[Edit]] = {
    kind.kind: kind for kind in (NeuronEdit, ClosedFormEdit, PrunedEdit, WeightEdit, CombinedEdit)
}


def edit_from_json(value: Any) -> Edit:
    """Make an edit of any kind from what its `to_json` returned.

    Raises:
        UnmemorizeError: the kind is unknown, or the content is damaged.
    """
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise EditError(
            f"edit of kind {kind!r:.60}: unknown. Known are {', '.join(_KINDS)}. "
            "Make the edit again, or use the version that made it."
        )
    return _KINDS[kind].from_json(value)
