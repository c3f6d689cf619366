"""Sets of neurons, the file that carries them, and switching them off."""

from unmemorize.neurons._neuron_file import NeuronFile, Operation
from unmemorize.neurons._neurons import Neurons, random_control
from unmemorize.neurons._switching import apply, gated, refuse_applied, remove, scaled, switched_off

__all__ = [
    "NeuronFile",
    "Neurons",
    "Operation",
    "apply",
    "gated",
    "random_control",
    "refuse_applied",
    "remove",
    "scaled",
    "switched_off",
]
