from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline

from unmemorize import Localization, Model, NeuronError, NeuronFile, Neurons
from unmemorize.generation import NeuronSet


def found(neurons: Neurons, z: float = 9.0) -> Localization:
    common: dict[str, Any] = {
        "criterion": "seeds",
        "protocol": "upstream",
        "kernel": 3,
        "evaluations": 1,
        "work": 1.0,
        "seconds": 1.0,
    }
    scores = {path: (z,) * len(indices) for path, indices in neurons.layers.items()}
    initial = neurons | Neurons({FIRST: [0]})
    return Localization(
        prompt="p",
        group="VM",
        detection=None,
        initial=initial,
        neurons=neurons,
        z_scores=scores,
        **common,
    )


FIRST, SECOND = (
    f"down_blocks.{stage}.attentions.0.transformer_blocks.0.attn2.to_v" for stage in (0, 1)
)
RECORDS: Mapping[int, Localization] = {
    3: found(Neurons({FIRST: [1, 2]})),
    5: found(Neurons({FIRST: [1], SECOND: [4]})),
    7: found(Neurons({FIRST: [1, 2]})),
    9: found(Neurons({SECOND: [6]}), z=20.0),
}


def assign(
    name: str, indices: list[int], model: Model, *, together: bool, barred: Neurons
) -> dict[int, Neurons]:
    chosen = NeuronSet.parse(name)
    pool = chosen.pool(RECORDS, model, 0.0) if together or chosen.pooled else None
    return chosen.assign(indices, RECORDS, model, pool=pool, barred=barred)


@pytest.fixture
def model(pipe: DiffusionPipeline) -> Model:
    return Model(pipe)


@pytest.mark.parametrize(
    "name",
    [
        "original",
        "initial",
        "refined",
        "top-3",
        "top-10-per-layer",
        "top-2-groups",
        "random-refined",
        "random-top-3",
        "random-initial",
    ],
)
def test_names_are_read_back(name: str) -> None:
    assert NeuronSet.parse(name).name == name


@pytest.mark.parametrize(
    "name",
    ["all", "top-0", "top-x", "random-original", "top-3-layers", "random-random-refined", ""],
)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(NeuronError, match="unknown"):
        NeuronSet.parse(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("top-1", Neurons({FIRST: [1]})),
        ("top-2", Neurons({FIRST: [1, 2]})),
        (
            "top-3",
            Neurons({FIRST: [1, 2], SECOND: [6]}),
        ),  # 6 and 4 are equally frequent, 6 has the higher z-score
        ("top-1-per-layer", Neurons({FIRST: [1], SECOND: [6]})),
        ("top-1-groups", Neurons({FIRST: [1, 2]})),
        ("top-9-groups", Neurons({FIRST: [1, 2], SECOND: [4, 6]})),
    ],
)
def test_the_most_frequent_neurons(model: Model, name: str, expected: Neurons) -> None:
    assert assign(name, [3, 9], model, together=False, barred=Neurons()) == {
        3: expected,
        9: expected,
    }


def test_each_prompt_has_its_own_or_all_together(model: Model) -> None:
    assert assign("refined", [3, 5], model, together=False, barred=Neurons()) == {
        3: RECORDS[3].neurons,
        5: RECORDS[5].neurons,
    }
    everything = Neurons({FIRST: [1, 2], SECOND: [4, 6]})
    assert assign("refined", [0, 1], model, together=True, barred=Neurons()) == {
        0: everything,
        1: everything,
    }
    assert assign("initial", [9], model, together=False, barred=Neurons()) == {
        9: Neurons({FIRST: [0], SECOND: [6]})
    }
    assert assign("original", [9], model, together=False, barred=Neurons()) == {9: Neurons()}


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("random-refined", False),
        ("random-refined", True),
        ("random-top-3", False),
        ("random-initial", False),
    ],
)
def test_random_controls_have_the_same_size_and_none_of_the_found(
    model: Model, name: str, together: bool
) -> None:
    everything = Neurons({FIRST: [1, 2], SECOND: [4, 6]})
    drawn = assign(name, [3, 5], model, together=together, barred=everything)
    replaced = assign(
        name.removeprefix("random-"), [3, 5], model, together=together, barred=everything
    )
    for index, neurons in drawn.items():
        assert {path: len(indices) for path, indices in neurons.layers.items()} == {
            path: len(indices) for path, indices in replaced[index].layers.items()
        }
        assert not neurons & (replaced[index] | everything)
        if not (NeuronSet.parse(name).pooled or together):
            assert not neurons & RECORDS[index].initial
    assert drawn == assign(name, [3, 5], model, together=together, barred=everything)


def test_a_neuron_file_is_a_set(model: Model, tmp_path: Path) -> None:
    NeuronFile.of(model, Neurons({FIRST: [5]})).save(tmp_path / "mine.json")
    mine = NeuronSet.parse(str(tmp_path / "mine.json"))
    assert mine.name == "file-mine"
    assert assign(str(tmp_path / "mine.json"), [3], model, together=False, barred=Neurons()) == {
        3: Neurons({FIRST: [5]})
    }
    with pytest.raises(NeuronError, match=r"meant for scale 0, not 0\.5"):
        mine.pool(RECORDS, model, 0.5)
    with pytest.raises(NeuronError, match="cannot be read"):
        assign(str(tmp_path / "none.json"), [3], model, together=False, barred=Neurons())
