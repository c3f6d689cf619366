"""The closed-form edit of all text projections (Unified Concept Editing, UCE).

Each weight W of a key or value projection is replaced by the minimum of

    sum_i weight_i |W' c_i - W g_i|^2 + sum_k |W' k - W k|^2 + ridge * |W' - W|^2

over W', where c_i are the token embeddings of the captions to edit, g_i those of their guides at
the same positions, and k the token embeddings of ordinary captions. The minimum is W' = W P with

    P = I + sum_i weight_i (g_i - c_i) c_i^T M^-1,
    M = ridge * I + sum_i weight_i c_i c_i^T + sum_k k k^T.

P does not depend on W. So the edit is one change of what all projections read, and an edited
weight is exactly W P.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unmemorize._checked import check_fields, make_tuple
from unmemorize._errors import EditError
from unmemorize._files import from_json
from unmemorize.generation._chosen_samples import ChosenSamples
from unmemorize.generation._layer_changes import LayerChange
from unmemorize.generation._text_inputs import moved_tokens, text_moment, text_projections
from unmemorize.pipelines import Model, refuse_fused, uncompiled

_RIDGE = 0.5
"""The ridge of UCE, which keeps directions that no caption has."""


@dataclass(frozen=True)
class Erased:
    """A caption that a closed-form edit makes read like another one.

    Args:
        caption: the caption. Each token position counts, except those that the guide shares, such
            as the start of the text.
        weight: how much its tokens count against those of ordinary captions, > 0.
        guide: the caption that it reads like afterwards, by default the empty prompt.

    Raises:
        EditError: the weight is not above 0, or a caption is no text.

    Examples:
        >>> Erased("a cat", weight=3.0).guide
        ''
    """

    caption: str
    weight: float = 10.0
    guide: str = ""

    def __post_init__(self) -> None:
        refuse_not_positive(weight=self.weight)
        check_fields(self, EditError)


@dataclass(frozen=True)
class ClosedFormEdit:
    """All text projections are edited so that captions read like others.

    The edit is kept as captions. Its matrix follows from them and from the model.

    Args:
        erase: the captions, each with its weight and the caption that it reads like afterwards.
        keep: ordinary captions whose keys and values should stay.

    Raises:
        EditError: there is no caption to edit, or something else than captions.

    Source: Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024, equation 7.

    Examples:
        >>> edit = ClosedFormEdit((Erased("a cat", weight=3.0),), keep=("a dog",))
        >>> ClosedFormEdit.from_json(edit.to_json()) == edit
        True
    """

    kind: ClassVar[str] = "closed-form"

    erase: tuple[Erased, ...]
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        make_tuple(self, "erase", EditError, "Erased(caption)")
        make_tuple(self, "keep", EditError, "captions")
        check_fields(self, EditError)
        if not self.erase:
            raise EditError("erase=(): no caption to edit. Name at least one.")

    def changes(self, model: Model) -> dict[str, LayerChange]:
        """See `Edit`.

        Raises:
            EditError: the model's projections do not all read one text stream.
        """
        layers = text_projections(model)
        change = LayerChange(inputs=self._matrix(model))
        return dict.fromkeys(layers, change)

    @contextmanager
    def applied(self, model: Model, rows: Sequence[bool]) -> Iterator[None]:
        """See `Edit`.

        Raises:
            EditError: the model's projections do not all read one text stream.
            ModelError: the projections of an attention are fused.
        """
        layers = text_projections(model)
        refuse_fused(model.denoiser, layers)
        hook = _ChangedInput(self._matrix(model), rows)
        with ExitStack() as stack:
            stack.enter_context(uncompiled(model.pipe))
            for layer in layers.values():
                # A later edit changes W P again, to W P Q, so Q must meet the input first.
                handle = layer.register_forward_pre_hook(hook, prepend=True)
                stack.callback(handle.remove)
            yield

    def to_json(self) -> dict[str, Any]:
        """Return kind, the captions to edit, and those that stay."""
        return {
            "kind": self.kind,
            "erase": [asdict(erased) for erased in self.erase],
            "keep": list(self.keep),
        }

    @classmethod
    def from_json(cls, value: Any) -> ClosedFormEdit:
        """Make an edit from what `to_json` returned.

        Raises:
            EditError: the value is another kind of edit, or damaged.
        """
        content = from_json(
            _Content, value, EditError, "not a valid closed-form edit", "Make the edit again."
        )
        return cls(content.erase, content.keep)

    def _matrix(self, model: Model) -> Tensor:
        """Return P, (features, features), float64."""
        return model.remembered(self, lambda: _solve(model, self))


@dataclass(frozen=True)
class _Content:
    kind: Literal["closed-form"]
    erase: tuple[Erased, ...]
    keep: tuple[str, ...]


class _ChangedInput:
    """A forward pre-hook that multiplies inputs (B, tokens, features) of some samples by P."""

    def __init__(self, matrix: Tensor, rows: Sequence[bool]) -> None:
        self._matrix, self._samples = matrix, ChosenSamples(rows)

    def __call__(self, _layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        read: Tensor = args[0]
        samples = self._samples.of(read)
        wide = torch.float64 if read.dtype == torch.float64 else torch.float32
        with torch.inference_mode(False):  # or no later pass could be differentiated
            self._matrix = self._matrix.to(read.device, wide)
        changed = read.clone()
        changed[samples] = (read[samples].to(wide) @ self._matrix.T).to(read.dtype)
        return (changed, *args[1:])


def _solve(model: Model, edit: ClosedFormEdit) -> Tensor:
    kept = text_moment(model, edit.keep)
    captions = [erased.caption for erased in edit.erase]
    moves = moved_tokens(model, captions, [erased.guide for erased in edit.erase])
    weighted = [
        (erased.weight, tokens, way)
        for erased, (tokens, way) in zip(edit.erase, moves, strict=True)
    ]
    shift = solved_shift(kept, weighted)
    return torch.eye(len(shift), dtype=torch.float64) + shift


def solved_shift(kept: Tensor, moves: Iterable[tuple[float, Tensor, Tensor]]) -> Tensor:
    """Solve the equations for P - I, (features, features), float64.

    Args:
        kept: the sum of k k^T, see `text_moment`.
        moves: weight of a caption, its tokens c and the ways g - c of these, both
            (tokens, features).
    """
    own = way = torch.zeros((), dtype=torch.float64)
    for weight, tokens, ways in moves:
        own = own + weight * tokens.T @ tokens
        way = way + weight * tokens.T @ ways
    ridge = _RIDGE * torch.eye(own.shape[-1], dtype=torch.float64)
    shift: Tensor = torch.linalg.solve(own + kept + ridge, way)
    return shift.T


def refuse_not_positive(**values: float) -> None:
    """Refuse numbers that are not above 0, by name.

    Raises:
        EditError: one of them is not.
    """
    for name, value in values.items():
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise EditError(f"{name}={value!r:.60}: a {name} is a number above 0, such as 1.")
