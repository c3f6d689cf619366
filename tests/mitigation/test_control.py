"""The negative control of an edit."""

from __future__ import annotations

from diffusers import DiffusionPipeline

from unmemorize import ClosedFormEdit, CombinedEdit, Erased, Model, NeuronEdit, Neurons
from unmemorize.mitigation._control import control_edit


def test_a_control_has_as_many_other_neurons_at_the_same_scales(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    one, two = list(model.value_layers)[:2]
    off = NeuronEdit(Neurons({one: [0, 1, 2], two: [5]}), 0.0)
    inverted = NeuronEdit(Neurons({one: [3]}), -1.0)
    closed = ClosedFormEdit((Erased("a cat"),), ("a dog",))
    control = control_edit(CombinedEdit((closed, off, inverted)), model)
    assert isinstance(control, CombinedEdit)
    first, second = control.parts
    assert isinstance(first, NeuronEdit)
    assert isinstance(second, NeuronEdit)
    assert (first.scale, second.scale) == (0.0, -1.0)
    assert {path: len(found) for path, found in first.neurons.layers.items()} == {one: 3, two: 1}
    assert {path: len(found) for path, found in second.neurons.layers.items()} == {one: 1}
    edited = off.neurons | inverted.neurons
    assert not len((first.neurons | second.neurons) & edited)
    assert not len(first.neurons & second.neurons)
    assert control_edit(CombinedEdit((closed, off, inverted)), model) == control


def test_one_neuron_edit_has_one_control_and_a_closed_form_none(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    layer = next(iter(model.value_layers))
    control = control_edit(NeuronEdit(Neurons({layer: [4]}), 0.5), model)
    assert isinstance(control, NeuronEdit)
    assert (len(control.neurons), control.scale) == (1, 0.5)
    assert control_edit(ClosedFormEdit((Erased("a cat"),)), model) is None
