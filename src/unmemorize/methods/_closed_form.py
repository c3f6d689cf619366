"""Unified Concept Editing as a mitigation: the caption reads like the empty prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unmemorize._checked import check_fields
from unmemorize._errors import MitigationError
from unmemorize.generation import ClosedFormEdit, Erased, text_projections
from unmemorize.methods._method import Suspect, refuse_outside
from unmemorize.pipelines import Model


@dataclass(frozen=True)
class MoveCaption:
    """Edits all key and value projections so that the caption reads like the empty prompt.

    Args:
        strength: how much the caption's tokens count against those of ordinary captions, above 0.
            The published weight is 1.

    Source: Gandikota et al., WACV 2024, equation 7; all token positions instead of the last one.

    Examples:
        >>> MoveCaption().strength
        10.0
    """

    name: ClassVar[str] = "closed-form"
    grid: ClassVar[tuple[float, ...]] = (1.0, 3.0, 10.0)

    strength: float = 10.0

    def __post_init__(self) -> None:
        check_fields(self, MitigationError)
        refuse_outside(self.name, self.strength, 1e-6)

    def fit(self, model: Model, suspect: Suspect) -> ClosedFormEdit:
        """See `Mitigation`. Ordinary captions are kept.

        Raises:
            EditError: the model's projections do not all read one text stream.
        """
        text_projections(model)
        erased = Erased(suspect.prompt.text, weight=self.strength)
        return ClosedFormEdit((erased,), suspect.ordinary)
