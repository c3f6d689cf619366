from collections.abc import Mapping
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from unmemorize import Localization, Model, NeuronError, NeuronFile, Neurons
from unmemorize.generation import NeuronSet


def localized(neurons: Neurons, z_score: float = 9.0) -> Localization:
    return Localization(
        prompt="p",
        group="VM",
        detection=None,
        criterion="seeds",
        protocol="published",
        kernel=3,
        evaluations=1,
        work=1.0,
        seconds=1.0,
        initial=neurons | Neurons({FIRST: [0]}),
        neurons=neurons,
        z_scores={path: (z_score,) * len(indices) for path, indices in neurons.layers.items()},
    )


FIRST, SECOND = (
    f"down_blocks.{stage}.attentions.0.transformer_blocks.0.attn2.to_v" for stage in (0, 1)
)
RECORDS: Mapping[int, Localization] = {
    3: localized(Neurons({FIRST: [1, 2]})),
    5: localized(Neurons({FIRST: [1], SECOND: [4]})),
    7: localized(Neurons({FIRST: [1, 2]})),
    9: localized(Neurons({SECOND: [6]}), z_score=20.0),
}


ALL = Neurons({FIRST: [1, 2], SECOND: [4, 6]})
"""All refined neurons of the records."""


def assign(
    name: str,
    indices: list[int],
    model: Model,
    *,
    whole_run: bool = False,
    excluded: Neurons | None = None,
) -> dict[int, Neurons]:
    """The neurons of some prompts, with ``whole_run`` as for prompts other than the run's."""
    chosen = NeuronSet.parse(name)
    is_shared = whole_run or chosen.is_shared
    shared = chosen.shared(RECORDS, model, 0.0) if is_shared else None
    return chosen.assign(indices, RECORDS, model, shared=shared, excluded=excluded or Neurons())


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
    assert assign(name, [3, 9], model) == {3: expected, 9: expected}


def test_each_prompt_has_its_own_or_those_of_the_whole_run(model: Model) -> None:
    own = {3: RECORDS[3].neurons, 5: RECORDS[5].neurons}
    assert assign("refined", [3, 5], model) == own
    assert assign("refined", [0, 1], model, whole_run=True) == {0: ALL, 1: ALL}
    assert assign("initial", [9], model) == {9: Neurons({FIRST: [0], SECOND: [6]})}
    assert assign("original", [9], model) == {9: Neurons()}
    assert assign("original", [0], model, whole_run=True) == {0: Neurons()}


@pytest.mark.parametrize(
    ("name", "whole_run"),
    [
        ("random-refined", False),
        ("random-refined", True),
        ("random-top-3", False),
        ("random-initial", False),
    ],
)
def test_random_controls_have_the_same_size_and_no_localized_neuron(
    model: Model, name: str, whole_run: bool
) -> None:
    drawn = assign(name, [3, 5], model, whole_run=whole_run, excluded=ALL)
    replaced = assign(name.removeprefix("random-"), [3, 5], model, whole_run=whole_run)
    for index, neurons in drawn.items():
        assert {path: len(indices) for path, indices in neurons.layers.items()} == {
            path: len(indices) for path, indices in replaced[index].layers.items()
        }
        assert not neurons & (replaced[index] | ALL)
        if not (NeuronSet.parse(name).is_shared or whole_run):
            assert not neurons & RECORDS[index].initial
    assert drawn == assign(name, [3, 5], model, whole_run=whole_run, excluded=ALL)


def test_random_controls_differ_from_prompt_to_prompt(model: Model) -> None:
    drawn = assign("random-top-1", list(range(12)), model)
    assert len(set(drawn.values())) > 2
    again = assign("random-top-1", [7], model)
    assert again[7] == drawn[7]


def test_excluded_neurons_are_never_drawn(model: Model) -> None:
    """Of 8 neurons in the layer all but two are excluded."""
    excluded = Neurons({FIRST: [0, 2, 3, 5, 6]})
    drawn = assign("random-top-1", list(range(12)), model, excluded=excluded)
    assert set(drawn.values()) == {Neurons({FIRST: [4]}), Neurons({FIRST: [7]})}


def test_a_neuron_file_is_a_set(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    NeuronFile.of(model, Neurons({FIRST: [5]}), scale=0.5).save(path)
    mine = NeuronSet.parse(str(path))
    assert mine.name == "file-mine"
    assert NeuronSet.parse(f"random-{path}").name == "random-file-mine"
    assert mine.shared(RECORDS, model, 0.5) == Neurons({FIRST: [5]})
    with pytest.raises(NeuronError, match=r"meant for scale 0\.5, not 0\. Give --scale 0\.5"):
        mine.shared(RECORDS, model, 0.0)
    with pytest.raises(NeuronError, match="cannot be read"):
        NeuronSet.parse(str(tmp_path / "none.json")).shared(RECORDS, model, 0.0)


def test_a_neuron_file_of_another_model_is_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    NeuronFile(neurons=Neurons({FIRST: [5]}), model="another", fingerprint="f").save(path)
    with pytest.raises(NeuronError, match="were found in another"):
        NeuronSet.parse(str(path)).shared(RECORDS, model, 0.0)
