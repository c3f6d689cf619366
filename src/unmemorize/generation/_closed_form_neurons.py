"""The closed-form edit of single neurons.

A neuron is a row of the weight of a value layer. Each one gets the row that solves the equations of
the closed-form edit (see `unmemorize.generation._closed_form`) for those captions alone whose
memory it carries. Keys and all other rows stay, so ordinary images change less than where all
projections move, and less than where the neurons are off.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from unmemorize._checked import check_fields, make_tuple
from unmemorize._errors import EditError
from unmemorize._files import from_json
from unmemorize.generation._added_outputs import added_outputs, layer_of
from unmemorize.generation._closed_form import refuse_not_positive, solved_shift
from unmemorize.generation._layer_changes import LayerChange
from unmemorize.generation._low_rank import LowRank
from unmemorize.generation._text_inputs import moved_tokens, text_moment, text_projections
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model, effective_weights


@dataclass(frozen=True)
class Reread:
    """A caption, and the neurons that read it like another one.

    Args:
        caption: the caption. Each token position counts, except those that the guide shares.
        neurons: the neurons.
        weight: how much its tokens count against those of ordinary captions, > 0.
        reach: how far the neurons go from the caption to the guide, > 0. 1 arrives there, and 2
            goes as far beyond it.
        guide: the caption that it reads like afterwards, by default the empty prompt.

    Raises:
        EditError: weight or reach is not above 0, a caption is no text, or there are no `Neurons`.

    Examples:
        >>> Reread("a cat", Neurons({"attn2.to_v": [3]}), reach=1.5).weight
        10.0
    """

    caption: str
    neurons: Neurons
    weight: float = 10.0
    reach: float = 1.0
    guide: str = ""

    def __post_init__(self) -> None:
        refuse_not_positive(weight=self.weight, reach=self.reach)
        check_fields(self, EditError)


@dataclass(frozen=True)
class ClosedFormNeuronEdit:
    """Neurons are edited so that they read captions like others.

    The edit is kept as captions and neurons. Its weights follow from them and from the model.

    Args:
        reread: the captions, each with its neurons.
        keep: ordinary captions whose values should stay.

    Raises:
        EditError: there is no caption to edit, or something else than captions.

    Examples:
        >>> neurons = Neurons({"attn2.to_v": [3]})
        >>> edit = ClosedFormNeuronEdit((Reread("a cat", neurons),), keep=("a dog",))
        >>> ClosedFormNeuronEdit.from_json(edit.to_json()) == edit
        True
    """

    kind: ClassVar[str] = "closed-form-neurons"

    reread: tuple[Reread, ...]
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        make_tuple(self, "reread", EditError, "Reread(caption, neurons)")
        make_tuple(self, "keep", EditError, "captions")
        check_fields(self, EditError)
        if not self.reread:
            raise EditError("reread=(): no caption to edit. Name at least one.")

    def owners(self) -> dict[tuple[str, int], tuple[int, ...]]:
        """Return for each neuron which of the captions it reads differently, in order."""
        owners = defaultdict[tuple[str, int], list[int]](list)
        for index, each in enumerate(self.reread):
            for neuron in each.neurons:
                owners[neuron].append(index)
        return {neuron: tuple(indices) for neuron, indices in sorted(owners.items())}

    def changes(self, model: Model) -> Mapping[str, LayerChange]:
        """See `Edit`.

        Raises:
            NeuronError: the neurons do not exist in the model.
            EditError: the model's projections do not all read one text stream.
            ModelError: a layer has an adapter that is no plain LoRA.
        """
        for each in self.reread:
            each.neurons.check(model)
        return model.remembered(self, lambda: _solve(model, self))

    def applied(self, model: Model, rows: Sequence[bool]) -> AbstractContextManager[None]:
        """See `Edit`.

        Raises:
            NeuronError: the neurons do not exist in the model.
            EditError: the model's projections do not all read one text stream.
            ModelError: an adapter is no plain LoRA; on entering, where the projections of an
                attention are fused.
        """
        added = {}
        for path, change in self.changes(model).items():
            assert change.low_rank is not None
            added[path] = {"weight": change.low_rank.product()}
        return added_outputs(model, added, rows)

    def to_json(self) -> dict[str, Any]:
        """Return kind, the captions with their neurons, and those that stay."""
        return {
            "kind": self.kind,
            "reread": [{**vars(each), "neurons": each.neurons.to_json()} for each in self.reread],
            "keep": list(self.keep),
        }

    @classmethod
    def from_json(cls, value: Any) -> ClosedFormNeuronEdit:
        """Make an edit from what `to_json` returned.

        Raises:
            EditError: the value is another kind of edit, or damaged.
        """
        content = from_json(
            _Content, value, EditError, "not a valid closed-form edit", "Make the edit again."
        )
        return cls(content.reread, content.keep)


@dataclass(frozen=True)
class _Content:
    kind: Literal["closed-form-neurons"]
    reread: tuple[Reread, ...]
    keep: tuple[str, ...]


def _solve(model: Model, edit: ClosedFormNeuronEdit) -> dict[str, LayerChange]:
    text_projections(model)  # refuses a model whose projections read something else
    kept = text_moment(model, edit.keep)
    captions = [each.caption for each in edit.reread]
    moves = moved_tokens(model, captions, [each.guide for each in edit.reread])
    weighted = [
        (each.weight, tokens, each.reach * way)
        for each, (tokens, way) in zip(edit.reread, moves, strict=True)
    ]
    groups = defaultdict[tuple[int, ...], list[tuple[str, int]]](list)
    for neuron, owners in edit.owners().items():
        groups[owners].append(neuron)
    differences: dict[str, dict[int, Tensor]] = defaultdict(dict)
    weights: dict[str, Tensor] = {}
    for owners, neurons in groups.items():
        shift = solved_shift(kept, [weighted[index] for index in owners])
        for path, row in neurons:
            if path not in weights:
                weight = effective_weights(layer_of(model, path))["weight"]
                weights[path] = weight.to("cpu", torch.float64)
            differences[path][row] = weights[path][row] @ shift
    return {
        path: LayerChange(added={"weight": _of_rows(rows, len(weights[path]))})
        for path, rows in sorted(differences.items())
    }


def _of_rows(rows: Mapping[int, Tensor], features: int) -> LowRank:
    """Write a matrix of a few rows in factors."""
    indices = sorted(rows)
    up = torch.zeros(features, len(indices), dtype=torch.float64)
    up[indices, range(len(indices))] = 1
    return LowRank(up, torch.stack([rows[index] for index in indices]))
