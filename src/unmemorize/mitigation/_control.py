"""The negative control of an edit: as many random other neurons."""

from __future__ import annotations

from unmemorize.generation import CombinedEdit, Edit, NeuronEdit
from unmemorize.mitigation._seeds import derived_seed
from unmemorize.neurons import Neurons, random_control
from unmemorize.pipelines import Model


def control_edit(edit: Edit, model: Model) -> Edit | None:
    """Take random other neurons of the same layers in place of those of an edit.

    Their numbers and scales are those of the edit. Its closed form is left out.

    Args:
        edit: the edit to compare with.
        model: the model.

    Returns:
        The control, or None if the edit has no neurons.
    """
    parts = edit.parts if isinstance(edit, CombinedEdit) else (edit,)
    found = [part for part in parts if isinstance(part, NeuronEdit)]
    barred = Neurons.of(neuron for part in found for neuron in part.neurons)
    controls: list[Edit] = []
    for part in found:
        seed = derived_seed("control", model.fingerprint, len(controls))
        drawn = random_control(part.neurons, model.widths, seed, exclude=barred)
        barred |= drawn
        controls.append(NeuronEdit(drawn, part.scale))
    if len(controls) < 2:
        return controls[0] if controls else None
    return CombinedEdit(tuple(controls))
