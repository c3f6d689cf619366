"""The closed-form edit of single neurons, on the bundled model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from unmemorize import (
    ClosedFormEdit,
    ClosedFormNeuronEdit,
    CombinedEdit,
    EditError,
    Erased,
    GenerationSettings,
    Model,
    NeuronEdit,
    NeuronError,
    Neurons,
    Reread,
    generate,
)

KEEP = ("a dog", "a red cup on a table", "two boats")
CAPTIONS = ("a ginger cat", "an old wall")
LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
OTHER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load("testbed", device="cpu")


def tokens(model: Model, text: str) -> Tensor:
    """What value layers read of the bundled model: the text encoder's last states."""
    return model.encode([text]).text[0].double()


def least_squares(model: Model, row: Tensor, asked: list[Reread]) -> Tensor:
    """Solve for a row as one stacked problem of weighted equations, without normal equations."""
    features = len(row)
    left, right = [0.5**0.5 * torch.eye(features, dtype=torch.float64)], [0.5**0.5 * row]
    for caption in KEEP:
        read = tokens(model, caption)
        left.append(read)
        right.append(read @ row)
    for each in asked:
        read, guide = tokens(model, each.caption), tokens(model, each.guide)
        own = (read - guide).norm(dim=1) > 1e-3 * guide.norm(dim=1)
        wanted = (1 - each.reach) * read + each.reach * guide
        left.append(each.weight**0.5 * read[own])
        right.append(each.weight**0.5 * (wanted[own] @ row))
    solution: Tensor = torch.linalg.lstsq(torch.cat(left), torch.cat(right)[:, None]).solution
    return solution[:, 0]


def test_each_row_solves_the_equations_of_its_own_captions(model: Model) -> None:
    cat = Reread(CAPTIONS[0], Neurons({LAYER: [3, 5]}), weight=4.0, reach=1.5)
    wall = Reread(CAPTIONS[1], Neurons({LAYER: [5], OTHER: [0]}), weight=2.0, guide="a house")
    changes = ClosedFormNeuronEdit((cat, wall), KEEP).changes(model)
    assert changes.keys() == {LAYER, OTHER}
    owners = {(LAYER, 3): [cat], (LAYER, 5): [cat, wall], (OTHER, 0): [wall]}
    for path, change in changes.items():
        weight: Tensor = model.denoiser.get_submodule(path).weight  # type: ignore[assignment]
        edited = change.of_weight(weight)
        for row, before in enumerate(weight.detach().double()):
            asked = owners.get((path, row))
            expected = before if asked is None else least_squares(model, before, asked)
            torch.testing.assert_close(edited[row], expected, rtol=1e-4, atol=1e-6)


def test_all_neurons_of_a_layer_move_as_the_whole_projection_does(model: Model) -> None:
    features = model.widths[LAYER]
    each = Reread(CAPTIONS[0], Neurons({LAYER: range(features)}), weight=4.0)
    rows = ClosedFormNeuronEdit((each,), KEEP).changes(model)[LAYER]
    whole = ClosedFormEdit((Erased(CAPTIONS[0], 4.0),), KEEP).changes(model)[LAYER]
    weight: Tensor = model.denoiser.get_submodule(LAYER).weight  # type: ignore[assignment]
    torch.testing.assert_close(rows.of_weight(weight), whole.of_weight(weight), rtol=0, atol=1e-6)


def test_generation_is_that_of_the_changed_weights(model: Model) -> None:
    settings = GenerationSettings(images=1, steps=2, guidance=3.0)
    neurons = Neurons({LAYER: range(8)})
    edit = CombinedEdit(
        (
            ClosedFormEdit((Erased(CAPTIONS[1]),), KEEP),
            ClosedFormNeuronEdit((Reread(CAPTIONS[0], neurons, reach=2.0),), KEEP),
            NeuronEdit(Neurons({LAYER: [1]}), 0.5),
        )
    )
    edited = generate(model, CAPTIONS[0], edit, settings=settings)[0]
    changed = Model.load("testbed", device="cpu")
    with torch.no_grad():
        for path, change in edit.changes(model).items():
            weight: Tensor = changed.denoiser.get_submodule(path).weight  # type: ignore[assignment]
            weight.copy_(change.of_weight(weight))
    by_weights = generate(changed, CAPTIONS[0], settings=settings)[0]
    plain = generate(model, CAPTIONS[0], settings=settings)[0]
    near = [abs(a - b) for a, b in zip(edited.tobytes(), by_weights.tobytes(), strict=True)]
    assert max(near) <= 1
    assert plain.tobytes() != edited.tobytes()


def test_what_a_loaded_lora_adds_to_a_row_counts() -> None:
    adapted = Model.load("testbed", device="cpu")
    network: Any = adapted.denoiser
    before: Tensor = network.get_submodule(LAYER).weight.detach().clone()
    network.add_adapter(LoraConfig(r=2, target_modules=[LAYER], init_lora_weights=False))
    added: Tensor = network.get_submodule(LAYER).get_delta_weight("default").detach()
    row = (before + added)[3].double()
    each = Reread(CAPTIONS[0], Neurons({LAYER: [3]}), weight=4.0)
    change = ClosedFormNeuronEdit((each,), KEEP).changes(adapted)[LAYER].low_rank
    assert change is not None
    expected = least_squares(adapted, row, [each]) - row
    torch.testing.assert_close(change.product()[3].double(), expected, rtol=1e-3, atol=1e-6)


def test_rows_follow_the_strength_that_a_lora_has_at_the_moment() -> None:
    adapted = Model.load("testbed", device="cpu")
    network: Any = adapted.denoiser
    network.add_adapter(LoraConfig(r=2, target_modules=[LAYER], init_lora_weights=False))
    each = Reread(CAPTIONS[0], Neurons({LAYER: [3]}), weight=4.0)
    edit = ClosedFormNeuronEdit((each,), KEEP)
    for strength in (1.0, 0.25, 1.0):
        network.set_adapters("default", strength)
        layer = network.get_submodule(LAYER)
        row = (layer.weight + layer.get_delta_weight("default")).detach()[3].double()
        change = edit.changes(adapted)[LAYER].low_rank
        assert change is not None
        expected = least_squares(adapted, row, [each]) - row
        torch.testing.assert_close(change.product()[3].double(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"), [("weight", 0.0), ("reach", -1.0), ("reach", float("nan"))]
)
def test_numbers_that_are_not_above_0_are_refused(name: str, value: float) -> None:
    given = {"weight": 1.0, "reach": 1.0, name: value}
    with pytest.raises(EditError, match=f"{name}=.*above 0"):
        Reread("a cat", Neurons({LAYER: [0]}), given["weight"], given["reach"])


def test_an_edit_without_captions_or_with_neurons_of_another_model_is_refused(model: Model) -> None:
    with pytest.raises(EditError, match="no caption to edit"):
        ClosedFormNeuronEdit(())
    edit = ClosedFormNeuronEdit((Reread("a cat", Neurons({"nowhere.to_v": [0]})),))
    with pytest.raises(NeuronError, match=r"nowhere\.to_v"):
        edit.changes(model)
