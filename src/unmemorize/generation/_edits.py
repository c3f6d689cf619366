"""Edits: changes of a model that last as long as a context, each for some samples of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

from unmemorize._errors import NeuronError
from unmemorize._files import from_json
from unmemorize.neurons import Neurons, scaled
from unmemorize.pipelines import Model

ExportForm = Literal["checkpoint", "lora"]


class Edit(Protocol):
    """A change of a model that is meant to end memorization.

    Edits that do the same compare equal. Contexts of several edits nest, in any order.
    """

    kind: ClassVar[str]
    """The name of this kind of edit in files."""

    @property
    def exportable_as(self) -> frozenset[ExportForm]:
        """The forms in which the edit can be written into weights."""
        ...

    def applied(self, model: Model, rows: Sequence[bool]) -> AbstractContextManager[None]:
        """Apply the edit while the context lasts, and leave the model exactly as before.

        Args:
            model: the model.
            rows: for each sample of a batch whether the edit applies to it. The batch of the
                denoiser is as long, or a multiple of it (conditional and unconditional halves).
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the edit as a JSON object."""
        ...

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Make the edit from what `to_json` returned."""
        ...


@dataclass(frozen=True)
class NeuronEdit:
    """Neurons whose outputs are multiplied by a scale.

    Args:
        neurons: the neurons. An empty set changes nothing.
        scale: 0 switches off, a fraction weakens, a negative number inverts.

    Examples:
        >>> edit = NeuronEdit(Neurons({"attn2.to_v": [3]}), scale=0.5)
        >>> NeuronEdit.from_json(edit.to_json()) == edit
        True
    """

    kind: ClassVar[str] = "neurons"

    neurons: Neurons
    scale: float = 0.0

    @property
    def exportable_as(self) -> frozenset[ExportForm]:
        """Both forms: rows of weights are multiplied."""
        return frozenset({"checkpoint", "lora"})

    def applied(self, model: Model, rows: Sequence[bool]) -> AbstractContextManager[None]:
        """See `Edit`.

        Raises:
            NeuronError: on entering, where the neurons do not exist in the model.
        """
        nothing = Neurons()
        return scaled(model, [self.neurons if row else nothing for row in rows], self.scale)

    def to_json(self) -> dict[str, Any]:
        """Return kind, neurons and scale."""
        return {"kind": self.kind, "neurons": self.neurons.to_json(), "scale": self.scale}

    @classmethod
    def from_json(cls, value: Any) -> NeuronEdit:
        """Make an edit from what `to_json` returned.

        Raises:
            NeuronError: the value is another kind of edit, or damaged.
        """
        content = from_json(
            _Content, value, NeuronError, "not a valid edit of neurons", "Make the edit again."
        )
        return cls(content.neurons, content.scale)


@dataclass(frozen=True)
class _Content:
    kind: Literal["neurons"]
    neurons: Neurons
    scale: float
