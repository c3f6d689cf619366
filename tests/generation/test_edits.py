from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize import Model, NeuronError, Neurons, switched_off
from unmemorize.generation import NeuronEdit


@pytest.fixture
def model(pipe: DiffusionPipeline) -> Model:
    return Model(pipe)


@pytest.fixture
def neurons(model: Model) -> Neurons:
    return Neurons({path: range(0, 8, 2) for path in model.value_layers})


def predict(model: Model) -> Tensor:
    """Noise predictions for three samples of different noise and prompts, with guidance halves."""
    latents = model.draw_latents(3, 5).repeat(2, 1, 1, 1)
    text = model.encode(["", "", "", "a cat", "a dog", "a bird"])
    return model.predict(latents, torch.tensor(300), text)


def test_only_its_rows_are_edited_in_both_halves(model: Model, neurons: Neurons) -> None:
    plain = predict(model)
    with switched_off(model, neurons, scale=0.5):
        everywhere = predict(model)
    with NeuronEdit(neurons, 0.5).applied(model, [False, True, False]):
        middle = predict(model)
    assert torch.equal(middle[[1, 4]], everywhere[[1, 4]])
    assert torch.equal(middle[[0, 2, 3, 5]], plain[[0, 2, 3, 5]])
    assert not torch.allclose(plain, everywhere, atol=1e-4)
    assert torch.equal(predict(model), plain)


def test_changed_weights_are_scaled_rows(model: Model, neurons: Neurons) -> None:
    changes = NeuronEdit(neurons, -0.5).changes(model)
    assert changes.keys() == neurons.layers.keys()
    weight = torch.arange(1.0, 17.0).reshape(8, 2)
    expected = weight.clone()
    expected[[0, 2, 4, 6]] *= -0.5
    change = next(iter(changes.values()))
    assert torch.equal(change.of_weight(weight), expected.double())
    assert torch.equal(change.of_bias(weight[:, 0]), expected[:, 0].double())


def test_edits_nest(model: Model, neurons: Neurons) -> None:
    half, double = NeuronEdit(neurons, 0.5), NeuronEdit(neurons, 2.0)
    plain = predict(model)
    with half.applied(model, [True] * 3), double.applied(model, [True, False, True]):
        both = predict(model)
    with half.applied(model, [False, True, False]):
        expected = predict(model)
    assert torch.equal(both, expected)
    assert torch.equal(both[[0, 2]], plain[[0, 2]])
    assert not torch.allclose(both[1], plain[1], atol=1e-4)


def test_neurons_that_the_model_does_not_have_are_refused(model: Model) -> None:
    edit = NeuronEdit(Neurons({"nowhere": [1]}))
    with pytest.raises(NeuronError, match="no such value layer"), edit.applied(model, [True]):
        pass
    with pytest.raises(NeuronError, match="no such value layer"):
        edit.changes(model)


def test_edits_are_read_back_and_compared() -> None:
    edit = NeuronEdit(Neurons({"a": [2, 1], "b": [0]}), -0.5)
    content = {"kind": "neurons", "neurons": {"a": [1, 2], "b": [0]}, "scale": -0.5}
    assert edit.to_json() == content
    assert NeuronEdit.from_json(content) == edit == pickle.loads(pickle.dumps(edit))
    assert edit != NeuronEdit(edit.neurons, 0.5)
    assert edit != NeuronEdit(Neurons({"a": [1, 2]}), -0.5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "Expected `object`"),
        ({"kind": "closed-form", "neurons": {}, "scale": 0}, r"at `\$.kind`"),
        ({"kind": "neurons", "neurons": {"a": [-1]}, "scale": 0}, "whole numbers"),
        ({"kind": "neurons", "neurons": {}, "scale": "0"}, r"at `\$.scale`"),
        ({"kind": "neurons", "neurons": {}}, "missing required field `scale`"),
    ],
)
def test_other_json_is_no_edit_of_neurons(value: Any, message: str) -> None:
    with pytest.raises(NeuronError, match=f"not a valid edit of neurons .*{message}"):
        NeuronEdit.from_json(value)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e6, "0"])
def test_an_edit_has_a_scale_that_its_file_could_have(scale: Any) -> None:
    with pytest.raises(NeuronError, match=r"scale=.*multiplied by a number between"):
        NeuronEdit(Neurons({"a": [1]}), scale)
