"""The mitigation of NeMo: switch the localized neurons off."""

from __future__ import annotations

from dataclasses import dataclass

from unmemorize.generation import NeuronEdit
from unmemorize.localization import Localization
from unmemorize.pipelines import Model


@dataclass(frozen=True)
class SwitchNeuronsOff:
    """Multiplies the outputs of the localized neurons by ``scale`` (paper, section 3.2).

    Args:
        scale: 0 switches off, a negative number inverts.
    """

    scale: float = 0.0
    name: str = "neurons"

    def fit(self, model: Model, findings: Localization) -> NeuronEdit:
        """See `Mitigation`.

        Raises:
            NeuronError: the neurons belong to another model.
        """
        findings.neurons.check(model)
        return NeuronEdit(findings.neurons, self.scale)
