import copy
import json
import pickle

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st

from unmemorize import Model, NeuronError, Neurons, random_control

PAIRS = st.sets(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 30)))


@given(PAIRS, PAIRS)
def test_set_algebra_is_that_of_sets_of_pairs(
    first: set[tuple[str, int]], second: set[tuple[str, int]]
) -> None:
    one, other = Neurons.of(first), Neurons.of(second)
    assert set(one | other) == first | second
    assert set(one & other) == first & second
    assert set(one - other) == first - second
    assert len(one) == len(first)
    assert (one == other) == (first == second)
    assert Neurons.from_json(one.to_json()) == one
    assert hash(Neurons.of(sorted(first))) == hash(one)


def test_neurons_are_sorted_unique_and_frozen() -> None:
    neurons = Neurons({"a": [3, 1, 3], "b": []})
    assert neurons.layers == {"a": (1, 3)}
    with pytest.raises(TypeError):
        neurons.layers["a"] = (2,)  # type: ignore[index]
    with pytest.raises(AttributeError, match="layers: a set of neurons cannot be changed"):
        neurons.layers = {}


@pytest.mark.parametrize("indices", [[-1], [1.5], ["1"], [True]])
def test_indices_must_be_whole_numbers(indices: list[int]) -> None:
    with pytest.raises(NeuronError, match="whole numbers"):
        Neurons({"a": indices})


INDICES = st.sets(st.integers(0, 19), max_size=15)


@given(INDICES, INDICES, st.integers(0, 100))
def test_random_control_takes_neither_the_neurons_nor_excluded_ones(
    indices: set[int], more: set[int], seed: int
) -> None:
    neurons, exclude = Neurons({"a": indices}), Neurons({"a": more, "b": [0]})
    control = random_control(neurons, {"a": 20, "b": 4}, seed, exclude=exclude)
    assert not control & (neurons | exclude)
    assert len(control) == min(len(indices), 20 - len(indices | more))
    assert control == random_control(neurons, {"a": 20, "b": 4}, seed, exclude=exclude)


def test_random_controls_depend_on_the_seed_and_keep_the_layers() -> None:
    neurons, widths = Neurons({"a": [0, 1], "b": [5]}), {"a": 50, "b": 40, "c": 9}
    controls = [random_control(neurons, widths, seed) for seed in range(8)]
    assert len(set(controls)) > 4
    for control in controls:
        assert {path: len(indices) for path, indices in control.layers.items()} == {"a": 2, "b": 1}
    assert max(index for control in controls for _, index in control) > 20


def test_equal_sets_have_equal_controls() -> None:
    """Sets that came together in another order of their layers."""
    one, two, widths = Neurons({"a": [0, 1]}), Neurons({"b": [5]}), {"a": 50, "b": 40}
    for seed in range(8):
        control = random_control(one | two, widths, seed)
        assert list((two | one).layers) == ["b", "a"]
        assert random_control(two | one, widths, seed) == control
        rng = np.random.default_rng(seed)  # as recorded controls were drawn
        drawn = rng.choice(np.arange(2, 50), 2, replace=False)
        others = [index for index in range(40) if index != 5]
        assert control == Neurons({"a": drawn, "b": rng.choice(others, 1, replace=False)})


def test_a_control_needs_the_widths_of_all_layers() -> None:
    with pytest.raises(NeuronError, match="elsewhere: the widths do not name this layer"):
        random_control(Neurons({"elsewhere": [0]}), {"a": 4}, 0)


def test_neurons_that_do_not_exist_are_refused(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    path, width = next(iter(model.widths.items()))
    Neurons({path: [width - 1]}).check(model)
    with pytest.raises(NeuronError, match=r"no such value layer.*" + path):
        Neurons({"somewhere.to_v": [0]}).check(model)
    with pytest.raises(NeuronError, match=f"neuron {width} does not exist, the layer has {width}"):
        Neurons({path: [0, width]}).check(model)


@pytest.mark.parametrize("value", [None, [1], {"a": 3}, {"a": None}])
def test_other_json_is_no_set(value: object) -> None:
    with pytest.raises(NeuronError, match="an object of layers and lists of indices"):
        Neurons.from_json(value)


def test_neurons_can_be_pickled_copied_and_made_from_numpy() -> None:
    neurons = Neurons({"a": np.array([4, 2])})
    assert neurons == Neurons({"a": [2, 4]})
    assert json.dumps(neurons.to_json()) == '{"a": [2, 4]}'
    assert pickle.loads(pickle.dumps(neurons)) == copy.deepcopy(neurons) == neurons
