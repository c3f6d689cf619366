import copy
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st

from unmemorize import Model, NeuronError, NeuronFile, Neurons, random_control

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
    assert Neurons(one.to_json()) == one
    assert hash(Neurons.of(sorted(first))) == hash(one)


def test_neurons_are_sorted_unique_and_frozen() -> None:
    neurons = Neurons({"a": [3, 1, 3], "b": []})
    assert neurons.layers == {"a": (1, 3)}
    with pytest.raises(TypeError):
        neurons.layers["a"] = (2,)  # type: ignore[index]


@pytest.mark.parametrize("indices", [[-1], [1.5], ["1"], [True]])
def test_indices_must_be_whole_numbers(indices: list[int]) -> None:
    with pytest.raises(NeuronError, match="whole numbers"):
        Neurons({"a": indices})


@given(st.sets(st.integers(0, 19), max_size=15), st.integers(0, 100))
def test_random_control_never_takes_the_found_ones(found: set[int], seed: int) -> None:
    control = random_control(Neurons({"a": found}), {"a": 20}, seed)
    assert not control & Neurons({"a": found})
    assert len(control) == min(len(found), 20 - len(found))
    assert control == random_control(Neurons({"a": found}), {"a": 20}, seed)


@pytest.fixture
def some(pipe: DiffusionPipeline) -> Neurons:
    first, *_, last = Model(pipe).value_layers
    return Neurons({first: [0, 5], last: [7]})


def test_file_round_trip(pipe: DiffusionPipeline, some: Neurons, tmp_path: Path) -> None:
    file = NeuronFile.of(Model(pipe), some, scale=-0.5, found={"prompts": 3})
    file.save(tmp_path / "neurons.json")
    loaded = NeuronFile.load(tmp_path / "neurons.json")
    assert loaded == file
    loaded.check(Model(pipe))
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "neurons.json").read_bytes()


def test_file_of_another_model_is_refused(pipe: DiffusionPipeline, some: Neurons) -> None:
    file = NeuronFile.of(Model(pipe), some)
    pipe.unet.get_submodule(next(iter(some.layers))).weight.data += 1
    with pytest.raises(NeuronError, match="were found in"):
        file.check(Model(pipe))


def test_neurons_that_do_not_exist_are_refused(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    with pytest.raises(NeuronError, match="no such value layer"):
        Neurons({"somewhere.to_v": [0]}).check(model)
    with pytest.raises(NeuronError, match="neuron 999 does not exist"):
        Neurons({next(iter(model.value_layers)): [999]}).check(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other/1"}, "schema 'other/1'"),
        ({"neurons": [1]}, "wrong type"),
        ({"neurons": {"a": 3}}, "wrong type"),
        ({"neurons": {"a": [-3]}}, "whole numbers"),
        ({"scale": "0"}, "wrong type"),
        ({"model": None}, "wrong type"),
        ({"found": None}, "wrong type"),
    ],
)
def test_malformed_files_are_refused(
    pipe: DiffusionPipeline, some: Neurons, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "neurons.json"
    NeuronFile.of(Model(pipe), some).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(NeuronError, match=message):
        NeuronFile.load(path)


def test_missing_keys_files_and_nan_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "neurons.json"
    with pytest.raises(NeuronError, match="cannot be read"):
        NeuronFile.load(path)
    path.write_text('{"schema": "unmemorize.neurons/1"}')
    with pytest.raises(NeuronError, match="'neurons' is missing"):
        NeuronFile.load(path)
    path.write_text('{"scale": NaN}')
    with pytest.raises(NeuronError, match="NaN"):
        NeuronFile.load(path)
    path.write_text("[" * 100_000)
    with pytest.raises(NeuronError, match="not a valid neuron file"):
        NeuronFile.load(path)


def test_neurons_can_be_pickled_copied_and_made_from_numpy() -> None:
    neurons = Neurons({"a": np.array([4, 2])})
    assert neurons == Neurons({"a": [2, 4]})
    assert json.dumps(neurons.to_json()) == '{"a": [2, 4]}'
    assert pickle.loads(pickle.dumps(neurons)) == copy.deepcopy(neurons) == neurons


def test_files_are_for_those_whom_the_user_lets_read_them(tmp_path: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    NeuronFile(neurons=Neurons(), model="m", fingerprint="f").save(tmp_path / "n.json")
    assert (tmp_path / "n.json").stat().st_mode & 0o777 == 0o666 & ~umask
