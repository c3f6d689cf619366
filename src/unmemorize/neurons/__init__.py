"""Sets of neurons, the file that carries them, and switching them off."""

from unmemorize.neurons._neuron_file import NeuronFile, Operation
from unmemorize.neurons._neurons import HasNeurons, Neurons, as_neurons, random_control
from unmemorize.neurons._switching import (
    check_scale,
    gated,
    scaled,
    switch_off,
    switch_on,
    switched_off,
)

__all__ = [
    "HasNeurons",
    "NeuronFile",
    "Neurons",
    "Operation",
    "as_neurons",
    "check_scale",
    "gated",
    "random_control",
    "scaled",
    "switch_off",
    "switch_on",
    "switched_off",
]
