from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from test_closed_form import KEEP, predict, write

from unmemorize import (
    ClosedFormEdit,
    CombinedEdit,
    EditError,
    EditFile,
    Erased,
    Model,
    NeuronEdit,
    NeuronError,
    Neurons,
)
from unmemorize.generation import edit_from_json


@pytest.fixture
def model(pipe: DiffusionPipeline) -> Model:
    return Model(pipe)


@pytest.fixture
def parts(model: Model) -> tuple[ClosedFormEdit, NeuronEdit, NeuronEdit]:
    layers = list(model.value_layers)
    return (
        ClosedFormEdit((Erased("a cat", 10.0),), KEEP),
        NeuronEdit(Neurons({layers[0]: [1, 3], layers[2]: [0]}), -0.25),
        NeuronEdit(Neurons({layers[0]: [3, 5]}), 0.5),
    )


def test_applied_is_what_the_changed_weights_do(
    model: Model, parts: tuple[ClosedFormEdit, NeuronEdit, NeuronEdit]
) -> None:
    edit = CombinedEdit(parts)
    plain = predict(model)
    with edit.applied(model, [True]):
        everywhere = predict(model)
    with edit.applied(model, [False, False, True]):
        last = predict(model)
    assert torch.equal(predict(model), plain)
    assert torch.allclose(last[[2, 5]], everywhere[[2, 5]], atol=1e-5)
    assert torch.allclose(last[[0, 1, 3, 4]], plain[[0, 1, 3, 4]], atol=1e-5)
    changes = edit.changes(model)
    first = next(iter(model.value_layers))
    assert changes[first].factors == {1: -0.25, 3: -0.125, 5: 0.5}
    write(model, changes)
    assert torch.allclose(predict(model), everywhere, atol=1e-5)
    assert not torch.allclose(everywhere, plain, atol=1e-3)


def test_only_the_order_of_closed_forms_counts(
    model: Model, parts: tuple[ClosedFormEdit, NeuronEdit, NeuronEdit]
) -> None:
    closed, neurons, _ = parts
    other = ClosedFormEdit((Erased("zebra quartz", 10.0),), ("a dog",))

    def weights(*edits: ClosedFormEdit | NeuronEdit) -> torch.Tensor:
        path, layer = next(iter(model.value_layers.items()))
        return CombinedEdit(edits).changes(model)[path].of_weight(layer.weight)

    assert torch.allclose(weights(closed, neurons), weights(neurons, closed), atol=1e-12)
    assert not torch.allclose(weights(closed, other), weights(other, closed), atol=1e-3)
    with closed.applied(model, [True]), other.applied(model, [True]):
        nested = predict(model)
    write(model, CombinedEdit((closed, other)).changes(model))
    assert torch.allclose(predict(model), nested, atol=1e-4)


def test_edits_of_every_kind_are_read_back(
    parts: tuple[ClosedFormEdit, NeuronEdit, NeuronEdit],
) -> None:
    nested = CombinedEdit((CombinedEdit(parts[:1]), *parts[1:]))
    for edit in (*parts, CombinedEdit(parts), nested):
        assert edit_from_json(edit.to_json(), Path()) == edit == pickle.loads(pickle.dumps(edit))
    assert CombinedEdit(parts) != CombinedEdit(parts[::-1])
    assert len({CombinedEdit(parts), CombinedEdit(list(parts))}) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([], EditError, "kind None: unknown"),
        ({"kind": "magic"}, EditError, "kind 'magic': unknown"),
        ({"kind": ["neurons"]}, EditError, "unknown"),
        ({"kind": "combined"}, EditError, "a list of parts"),
        ({"kind": "combined", "parts": [], "more": 1}, EditError, "a list of parts"),
        ({"kind": "combined", "parts": []}, EditError, "no edit to combine"),
        ({"kind": "combined", "parts": [{"kind": "neurons"}]}, NeuronError, "edit of neurons"),
    ],
)
def test_damaged_edits(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        edit_from_json(value, Path())


def test_edit_files_are_read_back(model: Model, tmp_path: Path) -> None:
    file = EditFile.of(model, ClosedFormEdit((Erased("a cat"),)), found={"prompts": 1})
    file.save(tmp_path / "edit.json")
    assert EditFile.load(tmp_path / "edit.json") == file
    assert (file.model, file.fingerprint) == (model.name, model.fingerprint)
    file.check(model)
    model.value_layers[next(iter(model.value_layers))].weight.data.mul_(2)
    with pytest.raises(EditError, match="was made for"):
        file.check(Model(model.pipe))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "unmemorize.neurons/1"}, "schema 'unmemorize.neurons/1'"),
        ({"edit": {"kind": "closed-form"}}, "not a valid closed-form edit"),
        ({"fingerprint": 3}, r"at `\$.fingerprint`"),
        ({"model": "a\x1b[2J"}, "control characters"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_damaged_edit_files(change: dict[str, Any], message: str) -> None:
    file = EditFile(edit=ClosedFormEdit((Erased("a cat"),)), model="m", fingerprint="f")
    with pytest.raises(EditError, match=message):
        EditFile.from_json({**file.to_json(), **change}, Path("edit.json"))
