"""Edits: changes of a model that last as long as a context, each for some samples of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from unmemorize._errors import NeuronError
from unmemorize._files import from_json, refuse_other_type
from unmemorize.generation._layer_changes import LayerChange
from unmemorize.neurons import Neurons, check_scale, scaled
from unmemorize.pipelines import Model


class Edit(Protocol):
    """A change of a model that is meant to end memorization.

    Edits that do the same compare equal. Contexts nest: an inner one edits the edited model.
    """

    kind: ClassVar[str]
    """The name of this kind of edit in files."""

    def changes(self, model: Model) -> Mapping[str, LayerChange]:
        """Return what the edit does to weights, by the path of a linear layer of the denoiser.

        A model with these weights computes what the edit computes when it is applied to all samples
        of a batch, conditional and unconditional.
        """
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
        """Return the edit as a JSON object, which `edit_from_json` reads."""
        ...


@dataclass(frozen=True)
class NeuronEdit:
    """Neurons whose outputs are multiplied by a scale.

    Args:
        neurons: the neurons. An empty set changes nothing.
        scale: 0 switches off, a fraction weakens, a negative number inverts; in (-1e6, 1e6).

    Raises:
        NeuronError: the neurons are none, or the scale is out of its range.

    Examples:
        >>> edit = NeuronEdit(Neurons({"attn2.to_v": [3]}), scale=0.5)
        >>> NeuronEdit.from_json(edit.to_json()) == edit
        True
    """

    kind: ClassVar[str] = "neurons"

    neurons: Neurons
    scale: float = 0.0

    def __post_init__(self) -> None:
        way_out = "Give Neurons, such as those of a localization or a neuron file."
        refuse_other_type("neurons", self.neurons, Neurons, NeuronError, way_out)
        check_scale(self.scale)

    def changes(self, model: Model) -> dict[str, LayerChange]:
        """See `Edit`.

        Raises:
            NeuronError: the neurons do not exist in the model.
        """
        self.neurons.check(model)
        return {
            path: LayerChange(dict.fromkeys(indices, self.scale))
            for path, indices in self.neurons.layers.items()
        }

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
