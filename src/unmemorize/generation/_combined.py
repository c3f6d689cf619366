"""Edits one after another, and the kinds of edits by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from unmemorize._checked import make_tuple
from unmemorize._errors import EditError
from unmemorize.generation._closed_form import ClosedFormEdit
from unmemorize.generation._closed_form_neurons import ClosedFormNeuronEdit
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
        EditError: there is no part, or one is no edit.

    Examples:
        >>> from unmemorize import Erased, Neurons
        >>> weaker = NeuronEdit(Neurons({"attn2.to_v": [3]}), scale=0.5)
        >>> edit = CombinedEdit((ClosedFormEdit((Erased("a cat"),)), weaker))
        >>> [part["kind"] for part in edit.to_json()["parts"]]
        ['closed-form', 'neurons']
    """

    kind: ClassVar[str] = "combined"

    parts: tuple[Edit, ...]

    def __post_init__(self) -> None:
        make_tuple(self, "parts", EditError, "edits")
        if not self.parts:
            raise EditError("parts=(): no edit to combine. Name at least one.")
        for part in self.parts:
            if not hasattr(part, "changes"):
                raise EditError(f"parts: {part!r:.60} is no edit. Give edits, such as NeuronEdit.")

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
    def from_json(cls, value: Any, folder: Path) -> CombinedEdit:
        """Make an edit from what `to_json` returned; see `edit_from_json`.

        Raises:
            UnmemorizeError: the value is another kind of edit, or a part is damaged.
        """
        parts = value.get("parts") if isinstance(value, dict) else None
        if not isinstance(parts, list) or value.keys() != {"kind", "parts"}:
            raise EditError(
                "not a valid combined edit (it needs kind and a list of parts). Make it again."
            )
        return cls(tuple(edit_from_json(part, folder) for part in parts))


_READERS: dict[str, Callable[[Any, Path], Edit]] = {
    NeuronEdit.kind: lambda value, _: NeuronEdit.from_json(value),
    ClosedFormEdit.kind: lambda value, _: ClosedFormEdit.from_json(value),
    ClosedFormNeuronEdit.kind: lambda value, _: ClosedFormNeuronEdit.from_json(value),
    PrunedEdit.kind: lambda value, _: PrunedEdit.from_json(value),
    WeightEdit.kind: WeightEdit.from_json,
    CombinedEdit.kind: CombinedEdit.from_json,
}


def edit_from_json(value: Any, folder: Path) -> Edit:
    """Make any edit from what its `to_json` returned.

    Args:
        value: the JSON object.
        folder: where the files of its tensors lie, see `save_tensors`.

    Raises:
        UnmemorizeError: the kind is unknown, or the content or a file is damaged.
    """
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _READERS:
        raise EditError(
            f"edit of kind {kind!r:.60}: unknown. Known are {', '.join(_READERS)}. "
            "Make the edit again, or use the version that made it."
        )
    return _READERS[kind](value, folder)


def weight_edits(edit: Edit) -> Iterator[WeightEdit]:
    """Yield the edits of weights in an edit. Their tensors have files of their own."""
    if isinstance(edit, WeightEdit):
        yield edit
    for part in edit.parts if isinstance(edit, CombinedEdit) else ():
        yield from weight_edits(part)


def save_tensors(edit: Edit, folder: Path) -> None:
    """Write the files that the JSON object of an edit names, if any.

    Raises:
        EditError: the folder cannot be written.
    """
    for part in weight_edits(edit):
        part.save_tensors(folder)
