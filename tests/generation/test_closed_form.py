from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from torch import Tensor

from architectures import make
from unmemorize import ClosedFormEdit, EditError, Erased, Model, ModelError
from unmemorize.generation import LayerChange

CAPTIONS = ("a cat", "zebra quartz")
KEEP = ("a dog", "two birds", "rain on a hill")
TEXT_STREAM = ("Stable Diffusion", "Stable Diffusion XL", "DeepFloyd IF", "PixArt")


@pytest.fixture
def model(pipe: DiffusionPipeline) -> Model:
    return Model(pipe)


def predict(model: Model) -> Tensor:
    """Predictions for three samples of different noise and prompts, with guidance halves."""
    latents = model.draw_latents(3, 5).repeat(2, 1, 1, 1)
    text = model.encode(["", "", "", "a cat", "a dog", "zebra quartz"])
    return model.predict(latents, torch.tensor(300), text)


def write(model: Model, changes: Mapping[str, LayerChange]) -> dict[str, Tensor]:
    """Change the weights of a model. Returns those of before."""
    before = {}
    for path, change in changes.items():
        weight = model.denoiser.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        before[path] = weight.detach().clone()
        weight.data.copy_(change.of_weight(weight))
    return before


def token_rows(pipe: StableDiffusionPipeline, caption: str) -> Tensor:
    """The text encoder's output for a caption, (tokens, features)."""
    ids = pipe.tokenizer(
        caption, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    ).input_ids
    rows: Tensor = pipe.text_encoder(ids)[0][0]
    return rows.double()


def test_weights_are_the_least_squares_solution(pipe: StableDiffusionPipeline) -> None:
    """Solve the stacked equations of one layer by QR, without the closed form."""
    model = Model(pipe)
    cat, quartz = CAPTIONS
    edit = ClosedFormEdit((Erased(cat, 3.0), Erased(quartz, 7.0, "zebra")), KEEP)
    changes = edit.changes(model)
    path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    weight = model.denoiser.get_submodule(path).weight
    assert isinstance(weight, Tensor)
    weight = weight.double()
    left, right = [0.5**0.5 * torch.eye(16, dtype=torch.float64)], [0.5**0.5 * weight.T]
    starts = []
    for caption, guide, factor in ((cat, "", 3.0), (quartz, "zebra", 7.0)):
        read, wanted = token_rows(pipe, caption), token_rows(pipe, guide)
        same = torch.isclose(read, wanted).all(1)
        start = int((~same).nonzero()[0])
        assert not same[start:].any()
        starts.append(start)  # the tokens in front of it are left out
        left.append(factor**0.5 * read[start:])
        right.append(factor**0.5 * wanted[start:] @ weight.T)
    assert starts[0] == 1 < starts[1]
    for caption in KEEP:
        read = token_rows(pipe, caption)
        left.append(read)
        right.append(read @ weight.T)
    solution = torch.linalg.lstsq(torch.cat(left), torch.cat(right)).solution.T
    edited = changes[path].of_weight(weight)
    assert torch.allclose(edited, solution, rtol=0, atol=1e-6)
    assert float((edited - weight).abs().max()) > 0.01
    assert set(changes) == {
        name
        for name, module in model.denoiser.named_modules()
        if name.endswith(("attn2.to_k", "attn2.to_v"))
    }


def test_captions_like_the_empty_prompt_change_nothing(model: Model) -> None:
    change = next(iter(ClosedFormEdit((Erased(""),), KEEP).changes(model).values()))
    assert change.inputs is not None
    assert torch.equal(change.inputs, torch.eye(16, dtype=torch.float64))


def test_a_larger_weight_moves_captions_further_towards_the_empty_prompt(
    pipe: StableDiffusionPipeline,
) -> None:
    model = Model(pipe)
    read, target = token_rows(pipe, "a cat"), token_rows(pipe, "")
    distances = []
    for weight in (0.01, 1.0, 100.0):
        change = next(
            iter(ClosedFormEdit((Erased("a cat", weight),), KEEP).changes(model).values())
        )
        assert change.inputs is not None
        distances.append(float((read @ change.inputs.T - target).norm()))
    assert float((read - target).norm()) > distances[0] > distances[1] > distances[2]


def test_it_can_be_differentiated_after_inference_mode(model: Model) -> None:
    """The matrix is converted in the first pass and kept for the others."""
    layer, text = next(iter(model.value_layers.values())), model.encode(["a cat"]).text
    with ClosedFormEdit((Erased("a cat"),)).applied(model, [True]):
        with torch.inference_mode():
            plain = layer(text)
        read = text.clone().requires_grad_()
        again = layer(read)
        (slope,) = torch.autograd.grad(again.sum(), read)
    assert torch.equal(again, plain)
    assert bool(slope.any())


@pytest.mark.parametrize("name", TEXT_STREAM)
def test_applied_is_what_the_changed_weights_do(name: str) -> None:
    model = Model(make(name).to(torch.float64))
    edit = ClosedFormEdit(tuple(Erased(caption) for caption in CAPTIONS), KEEP)
    plain = predict(model)
    with edit.applied(model, [True]):
        everywhere = predict(model)
    with edit.applied(model, [False, True, False]):
        middle = predict(model)
    assert torch.equal(predict(model), plain)
    assert torch.allclose(middle[[1, 4]], everywhere[[1, 4]], atol=1e-6)
    assert torch.allclose(middle[[0, 2, 3, 5]], plain[[0, 2, 3, 5]], atol=1e-6)
    write(model, edit.changes(model))
    assert torch.allclose(predict(model), everywhere, atol=1e-6)
    assert float((everywhere - plain).abs().amax((1, 2, 3)).min()) > 1e-5


def test_an_inner_edit_edits_the_edited_model(model: Model) -> None:
    first = ClosedFormEdit((Erased("a cat", 10.0),), KEEP)
    second = ClosedFormEdit((Erased("zebra quartz", 10.0),), ("a dog",))
    with first.applied(model, [True]), second.applied(model, [True]):
        nested = predict(model)
    with second.applied(model, [True]), first.applied(model, [True]):
        reverse = predict(model)
    before = write(model, first.changes(model))
    write(model, second.changes(model))
    assert torch.allclose(predict(model), nested, atol=1e-4)
    assert not torch.allclose(nested, reverse, atol=1e-3)
    assert len(before) == 14


def test_an_applied_edit_does_not_enter_the_next_one() -> None:
    """Where all layers read a projection of the text, the denoiser itself is observed."""
    model = Model(make("PixArt"))
    first, second = ClosedFormEdit((Erased("a cat"),)), ClosedFormEdit((Erased("a dog"),), KEEP)
    alone = second.changes(Model(model.pipe))
    with first.applied(model, [True]):
        nested = second.changes(model)
    for path, change in nested.items():
        assert change.inputs is not None
        expected = alone[path].inputs
        assert expected is not None
        assert torch.equal(change.inputs, expected)


def test_a_batch_that_does_not_fit(model: Model) -> None:
    edit = ClosedFormEdit((Erased("a cat"),))
    with edit.applied(model, [True, False, True, True]), pytest.raises(ModelError, match="batch"):
        predict(model)
    assert not any(layer._forward_pre_hooks for layer in model.denoiser.modules())


@pytest.mark.parametrize("name", ["Stable Diffusion 3", "Flux"])
def test_layers_that_read_the_image_too_are_refused(name: str) -> None:
    with pytest.raises(EditError, match="depend on the image"):
        ClosedFormEdit((Erased("a cat"),)).changes(Model(make(name)))


def test_value_layers_without_a_known_key_layer_are_refused(pipe: DiffusionPipeline) -> None:
    model = Model(pipe, value_layers="*attn2.to_out.0")
    model.__dict__["value_input"] = "text"
    with pytest.raises(EditError, match=r"to_out.0: the layer that projects keys"):
        ClosedFormEdit((Erased("a cat"),)).changes(model)


def test_edits_are_read_back_and_compared() -> None:
    edit = ClosedFormEdit((Erased("a cat", 3.0, "cat"),), KEEP)
    erased = {"caption": "a cat", "weight": 3.0, "guide": "cat"}
    content = {"kind": "closed-form", "erase": [erased], "keep": list(KEEP)}
    assert edit.to_json() == content
    assert ClosedFormEdit.from_json(content) == edit == pickle.loads(pickle.dumps(edit))
    assert edit != ClosedFormEdit((Erased("a cat", 1.0, "cat"),), KEEP)
    assert edit != ClosedFormEdit((Erased("a cat", 3.0),), KEEP)
    assert edit != ClosedFormEdit((Erased("a cat", 3.0, "cat"),))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "Expected `object`"),
        ({"kind": "neurons", "erase": [{"caption": "a"}], "keep": []}, r"at `\$.kind`"),
        ({"kind": "closed-form", "erase": "a", "keep": []}, r"at `\$.erase`"),
        ({"kind": "closed-form", "erase": [{"caption": "a"}]}, "required field `keep`"),
        ({"kind": "closed-form", "erase": [], "keep": []}, "no caption"),
        ({"kind": "closed-form", "erase": [{"caption": "a", "weight": 0}], "keep": []}, "above 0"),
    ],
)
def test_other_json_is_no_closed_form_edit(value: Any, message: str) -> None:
    with pytest.raises(EditError, match=message):
        ClosedFormEdit.from_json(value)


def test_a_text_is_not_taken_for_captions() -> None:
    with pytest.raises(EditError, match="Give a tuple"):
        ClosedFormEdit("a cat")  # type: ignore[arg-type]
    with pytest.raises(EditError, match="Give a tuple of captions"):
        ClosedFormEdit((Erased("a cat"),), "a dog")  # type: ignore[arg-type]
