"""The mitigation of NeMo: switch the localized neurons off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unmemorize._checked import check_fields
from unmemorize._errors import MitigationError
from unmemorize.generation import NeuronEdit
from unmemorize.localization import RefinementMethod
from unmemorize.methods._method import Suspect, refuse_outside
from unmemorize.pipelines import Model


@dataclass(frozen=True)
class SwitchNeuronsOff:
    """Multiplies the outputs of the localized neurons by 1 - strength.

    Args:
        strength: 1 switches off (published), more inverts. It is that of the exported LoRA.

    Source: Hintersdorf et al., NeurIPS 2024, section 3.2. The refinement is docs/method.md's.

    Examples:
        >>> SwitchNeuronsOff(strength=1.25).scale
        -0.25
    """

    name: ClassVar[str] = "neurons"
    grid: ClassVar[tuple[float, ...]] = (0.5, 1.0, 1.25, 1.5, 2.0)
    refinement: ClassVar[RefinementMethod] = "complete"

    strength: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, MitigationError)
        refuse_outside(self.name, self.strength, 0)

    @property
    def scale(self) -> float:
        """What outputs are multiplied by."""
        return 1.0 - self.strength

    def fit(self, model: Model, suspect: Suspect) -> NeuronEdit:
        """See `Mitigation`. It needs a localization under this refinement.

        Raises:
            MitigationError: there is none.
            NeuronError: the neurons belong to another model.
        """
        found = [each for each in suspect.localizations if each.refinement == self.refinement]
        if not found:
            raise MitigationError(
                f"{self.name}: {suspect.prompt.text[:60]!r} has no localization with refinement "
                f"{self.refinement}. Localize it first, and give the record to the suspect."
            )
        found[-1].neurons.check(model)
        return NeuronEdit(found[-1].neurons, self.scale)


@dataclass(frozen=True)
class BisectedNeurons(SwitchNeuronsOff):
    """The same with the neurons that bisection leaves: enough, but not all."""

    name: ClassVar[str] = "neurons-bisect"
    refinement: ClassVar[RefinementMethod] = "bisect"


@dataclass(frozen=True)
class GreedyNeurons(SwitchNeuronsOff):
    """The same with the neurons of the published greedy refinement."""

    name: ClassVar[str] = "neurons-greedy"
    refinement: ClassVar[RefinementMethod] = "greedy"
