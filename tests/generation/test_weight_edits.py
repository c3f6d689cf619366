"""Edits of single weights: pruning, and differences that training leaves."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from unmemorize import (
    ClosedFormEdit,
    CombinedEdit,
    EditError,
    EditFile,
    Erased,
    Model,
    ModelError,
    NeuronEdit,
    Neurons,
)
from unmemorize.generation import (
    Edit,
    LayerChange,
    LowRank,
    PrunedEdit,
    WeightEdit,
    edit_from_json,
)

ATTENTION = "mid_block.attentions.0.transformer_blocks.0"


@pytest.fixture
def model(pipe: DiffusionPipeline) -> Model:
    return Model(pipe.to(torch.float64))


def predict(model: Model) -> Tensor:
    """Predictions for three samples of different noise and prompts, with guidance halves."""
    latents = model.draw_latents(3, 5).repeat(2, 1, 1, 1)
    text = model.encode(["", "", "", "a cat", "a dog", "zebra quartz"])
    return model.predict(latents, torch.tensor(300), text)


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def read(value: Any, folder: Path = Path()) -> WeightEdit:
    return WeightEdit.from_json(value, folder)


def random_like(model: Model, names: list[str]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = model.denoiser.state_dict()
    return {name: 0.1 * torch.randn(weights[name].shape, generator=generator) for name in names}


def pruning(model: Model) -> PrunedEdit:
    path = f"{ATTENTION}.ff.net.2"
    weight = model.denoiser.get_submodule(path).weight
    assert isinstance(weight, Tensor)
    return PrunedEdit({path: range(0, weight.numel(), 2), "conv_in": range(5)})  # type: ignore[dict-item]


def difference(model: Model) -> WeightEdit:
    """Linear, convolutional and normalizing layers, with and without a change of their bias."""
    names = [
        f"{ATTENTION}.attn2.to_k.weight",
        f"{ATTENTION}.attn2.to_out.0.bias",
        "mid_block.resnets.0.conv1.weight",
        "mid_block.resnets.0.norm1.weight",
        "mid_block.resnets.0.norm1.bias",
        "mid_block.resnets.0.time_emb_proj.weight",
    ]
    return WeightEdit(random_like(model, names), "test")


def combined(model: Model) -> CombinedEdit:
    """All kinds of edits of one layer, one after another."""
    path = f"{ATTENTION}.attn2.to_v"
    weight = model.denoiser.get_submodule(path).weight
    assert isinstance(weight, Tensor)
    return CombinedEdit(
        (
            PrunedEdit({path: tuple(range(3, weight.numel(), 5))}),
            WeightEdit(random_like(model, [f"{path}.weight"])),
            ClosedFormEdit((Erased("a cat", 3.0),), ("a dog",)),
            NeuronEdit(Neurons({path: [1, 3]}), -0.5),
            WeightEdit({f"{path}.weight": LowRank(noise((16, 2), 1), noise((2, 16), 2))}),
        )
    )


def factors(model: Model) -> WeightEdit:
    """Of a linear layer and of a convolution."""
    names = [f"{ATTENTION}.attn2.to_k.weight", "mid_block.resnets.0.conv1.weight"]
    shapes = [model.denoiser.state_dict()[name].shape for name in names]
    return WeightEdit(
        {
            name: LowRank(noise((shape[0], 2), seed=1), noise((2, *shape[1:]), seed=2))
            for name, shape in zip(names, shapes, strict=True)
        }
    )


@pytest.mark.parametrize("make_edit", [pruning, difference, factors, combined])
def test_applied_is_what_the_changed_weights_do(make_edit: Any, model: Model) -> None:
    edit: Edit = make_edit(model)
    plain = predict(model)
    with edit.applied(model, [True]):
        everywhere = predict(model)
    with edit.applied(model, [False, True, False]):
        middle = predict(model)
    assert torch.equal(predict(model), plain)
    assert torch.allclose(middle[[1, 4]], everywhere[[1, 4]], atol=1e-5)
    assert torch.allclose(middle[[0, 2, 3, 5]], plain[[0, 2, 3, 5]], atol=1e-5)
    for path, change in edit.changes(model).items():
        layer: Any = model.denoiser.get_submodule(path)
        layer.weight.data.copy_(change.of_weight(layer.weight))
        if layer.bias is not None:
            layer.bias.data.copy_(change.of_bias(layer.bias))
    assert torch.allclose(predict(model), everywhere, atol=1e-5)
    assert float((everywhere - plain).abs().amax((1, 2, 3)).min()) > 1e-4


@pytest.mark.parametrize("make_edit", [pruning, difference])
def test_edits_of_an_offloaded_model(make_edit: Any, model: Model) -> None:
    edit = make_edit(model)
    with edit.applied(model, [True] * 3):
        expected = predict(model)
    accelerate.cpu_offload(model.denoiser, execution_device=torch.device("cpu"))
    before = predict(model)
    with edit.applied(model, [True] * 3):
        assert torch.allclose(predict(model), expected, atol=1e-9)
    assert torch.equal(predict(model), before)


def test_weights_in_another_order_of_memory(model: Model) -> None:
    edit, weight = PrunedEdit({"conv_in": (1, 5)}), model.denoiser.get_parameter("conv_in.weight")
    expected = weight.detach().double().flatten().index_fill(0, torch.tensor([1, 5]), 0.0)
    with edit.applied(model, [True] * 3):
        prediction = predict(model)
    model.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert not weight.is_contiguous()
    with edit.applied(model, [True] * 3):
        assert torch.allclose(predict(model), prediction, atol=1e-9)
    assert torch.equal(edit.changes(model)["conv_in"].of_weight(weight).flatten(), expected)


def test_changes_one_after_another() -> None:
    """Beside products of matrices."""
    generator = torch.Generator().manual_seed(1)
    weight, inputs, first, second = torch.randn(4, 3, 3, generator=generator).double()
    change = (
        LayerChange(zeros=torch.tensor([1, 5]))
        .then(LayerChange(zeros=torch.tensor([5, 6])))
        .then(LayerChange({0: 2.0}, added={"weight": first, "bias": first[0]}))
        .then(LayerChange({0: 3.0, 2: 0.0}, inputs))
        .then(LayerChange(added={"weight": second}))
    )
    pruned = weight.clone()
    pruned[0, 1] = pruned[1, 2] = pruned[2, 0] = 0
    scaled = torch.diag(torch.tensor([2.0, 1.0, 1.0]).double()) @ pruned + first
    expected = torch.diag(torch.tensor([3.0, 1.0, 0.0]).double()) @ scaled @ inputs + second
    assert torch.allclose(change.of_weight(weight), expected)
    bias = torch.tensor([1.0, 2.0, 3.0]).double()
    scales = torch.tensor([3.0, 1.0, 0.0])
    expected = scales * (torch.tensor([2.0, 1.0, 1.0]) * bias + first[0])
    assert torch.allclose(change.of_bias(bias), expected)
    assert torch.equal(LayerChange(zeros=torch.tensor([0])).of_bias(bias), bias)


def test_zeros_come_first(model: Model) -> None:
    path = f"{ATTENTION}.attn2.to_v"
    late = CombinedEdit((NeuronEdit(Neurons({path: [1]})), PrunedEdit({path: (1,)})))
    with pytest.raises(EditError, match="Make the pruning the first"):
        late.changes(model)


@pytest.mark.parametrize("make_edit", [pruning, difference, factors, combined])
def test_edits_are_read_back_and_compared(make_edit: Any, model: Model, tmp_path: Any) -> None:
    edit = make_edit(model)
    EditFile.of(model, edit).save(tmp_path / "edit.json")
    assert EditFile.load(tmp_path / "edit.json").edit == edit
    content = json.loads(json.dumps(edit.to_json()))
    assert edit_from_json(content, tmp_path) == edit == pickle.loads(pickle.dumps(edit))


def test_tensors_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    """Factors as they are, beside whole tensors, and JSON of one line however large they are."""
    up, down = noise((6, 2), seed=1), noise((2, 3, 3, 3), seed=2)
    whole = noise((4, 4), seed=3)
    edit = WeightEdit({"b.weight": LowRank(up, down), "a.weight": whole}, "test")
    assert len(json.dumps(edit.to_json())) < 200
    edit.save_tensors(tmp_path)
    (path,) = tmp_path.iterdir()
    stored = load_file(path)
    assert path.name == f"unmemorize-edit-{edit.to_json()['sha256'][:10]}.safetensors"
    assert stored.keys() == {"a.weight", "b.weight.up", "b.weight.down"}
    assert torch.equal(stored["b.weight.up"], up)
    assert torch.equal(stored["b.weight.down"], down)
    assert edit_from_json(edit.to_json(), tmp_path) == edit
    assert (edit.rank, WeightEdit({"b.weight": LowRank(up, down)}).rank) == (None, 2)


def test_tensors_that_have_changed_are_refused(tmp_path: Path) -> None:
    edit = WeightEdit({"a.weight": LowRank(noise((3, 1)), noise((1, 3)))})
    edit.save_tensors(tmp_path)
    path = tmp_path / edit.file_name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(EditError, match="its tensors have changed since"):
        read(edit.to_json(), tmp_path)
    path.write_bytes(content[:-1])
    with pytest.raises(EditError, match="the file of an edit cannot be read"):
        read(edit.to_json(), tmp_path)
    tensors = {name: value for name, value in load(content).items() if name.endswith("up")}
    save_file(tensors, path)
    with pytest.raises(EditError, match="its tensors have changed since"):
        read(edit.to_json(), tmp_path)
    save_file({name: value.view(torch.int32) for name, value in load(content).items()}, path)
    with pytest.raises(EditError, match="its tensors have changed since"):
        read(edit.to_json(), tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    edit = WeightEdit({"a.weight": torch.ones(2, 2)})
    with pytest.raises(EditError, match="cannot be written"):
        edit.save_tensors(tmp_path / "file")


def test_edits_differ() -> None:
    one = WeightEdit({"a.weight": torch.ones(2, 2)}, "esd")
    assert one == WeightEdit({"a.weight": torch.ones(2, 2)}, "esd")
    assert hash(one) == hash(WeightEdit({"a.weight": torch.ones(2, 2)}, "esd"))
    assert one != WeightEdit({"a.weight": torch.ones(2, 2)}, "siss")
    assert one != WeightEdit({"a.weight": torch.zeros(2, 2)}, "esd")
    assert one != WeightEdit({"b.weight": torch.ones(2, 2)}, "esd")
    assert one != WeightEdit({"a.weight": torch.ones(4)}, "esd")
    assert one != PrunedEdit({"a": (1,)})
    assert PrunedEdit({"a": (1,)}) != PrunedEdit({"a": (2,)})


@pytest.mark.parametrize(
    ("make_edit", "message"),
    [
        (lambda: PrunedEdit({}), "no weight to set to zero"),
        (lambda: PrunedEdit({"a": ()}), "no weight to set to zero"),
        (lambda: PrunedEdit({"a": (-1,)}), "count from 0"),
        (lambda: WeightEdit({}), "nothing is added"),
        (lambda: WeightEdit({"a.scale": torch.ones(1)}), "not the name of a weight"),
        (lambda: WeightEdit({"a.weight": torch.tensor([torch.nan])}), "NaN or infinity"),
        (lambda: PrunedEdit.from_json({"kind": "pruned"}), "not a valid edit that prunes"),
        (lambda: WeightEdit({"a.weight.up": torch.ones(2, 2)}), "not the name of a weight"),
        (lambda: read({"kind": "weights"}), "not a valid edit of weights"),
        (
            lambda: read({"kind": "weights", "source": "", "differences": "AAAA"}),
            "its tensors as text.* repeat the command that made it",
        ),
        (lambda: read({"kind": "weights", "source": "", "sha256": "../../x"}), r"sha256 '\.\./"),
        (
            lambda: read({"kind": "weights", "source": "", "sha256": "0" * 64}),
            r"unmemorize-edit-0000000000\.safetensors: not there.* Put it beside",
        ),
    ],
)
def test_damaged_edits_are_refused(make_edit: Any, message: str) -> None:
    with pytest.raises(EditError, match=message):
        make_edit()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (PrunedEdit({"nowhere": (1,)}), "no such layer"),
        (PrunedEdit({"mid_block": (1,)}), "no such layer"),
        (PrunedEdit({"conv_in": (10**6,)}), "there is no entry 1000000"),
        (WeightEdit({"nowhere.weight": torch.ones(1)}), "no such layer"),
        (
            WeightEdit({"conv_in.weight": LowRank(torch.ones(8, 1), torch.ones(1, 36))}),
            r"shape \(8, 36\), .* has \(8, 4, 3, 3\)",
        ),
        (WeightEdit({"conv_in.weight": torch.ones(1)}), r"shape \(1,\), .* has \(8, 4, 3, 3\)"),
        (WeightEdit({f"{ATTENTION}.attn2.to_v.bias": torch.ones(16)}), "has none"),
    ],
)
def test_edits_of_another_model_are_refused(edit: Any, message: str, model: Model) -> None:
    with pytest.raises(EditError, match=message):
        edit.changes(model)
    with pytest.raises(EditError, match=message), edit.applied(model, [True]):
        pass


def test_a_batch_that_does_not_fit(model: Model) -> None:
    edit = difference(model)
    with edit.applied(model, [True, False, True, True]), pytest.raises(ModelError, match="batch"):
        predict(model)
    assert not any(layer._forward_hooks for layer in model.denoiser.modules())
    assert not any(layer._forward_pre_hooks for layer in model.denoiser.modules())


def test_layers_compute_once_where_all_samples_are_edited(model: Model) -> None:
    """Beside rows that are edited one by one, and with the same weights afterwards."""
    edit = difference(model)
    before = {name: id(value) for name, value in model.denoiser.named_parameters()}
    plain = predict(model)
    counted: list[str] = []
    layer: Any = model.denoiser.get_submodule("mid_block.resnets.0.conv1")
    convolve = layer._conv_forward

    def count(*args: Any) -> Any:
        counted.append("called")
        return convolve(*args)

    layer._conv_forward = count
    with edit.applied(model, [True]):
        whole = predict(model)
    assert len(counted) == 1
    with edit.applied(model, [True, False, True]):
        parts = predict(model)
    assert torch.allclose(whole[[0, 2, 3, 5]], parts[[0, 2, 3, 5]], atol=1e-9)
    assert torch.allclose(parts[[1, 4]], plain[[1, 4]], atol=1e-9)
    assert not torch.allclose(whole[[1, 4]], plain[[1, 4]], atol=1e-3)
    # another hook may change what goes in or out, so the sum of weights is not used beside it
    handle = layer.register_forward_hook(lambda _layer, _args, output: output * 2)
    with edit.applied(model, [True]):
        doubled = predict(model)
    handle.remove()
    assert not torch.allclose(doubled, whole, atol=1e-3)
    assert {name: id(value) for name, value in model.denoiser.named_parameters()} == before


def test_a_layer_that_fails_keeps_its_weights(model: Model) -> None:
    layer = model.denoiser.get_submodule("mid_block.resnets.0.conv1")
    weight = layer.weight

    def broken(*_args: Any) -> Any:
        raise KeyboardInterrupt

    layer._conv_forward = broken  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt), difference(model).applied(model, [True]):
        predict(model)
    assert layer.weight is weight


def test_embeddings_read_whole_numbers(model: Model) -> None:
    path, embedding = next(
        (f"text_encoder.{path}", module)
        for path, module in model.pipe.text_encoder.named_modules()
        if isinstance(module, nn.Embedding)
    )
    added = noise(tuple(embedding.weight.shape))
    tokens = torch.tensor([[1, 2], [1, 2]])
    plain = embedding(tokens)
    with WeightEdit({f"{path}.weight": added}).applied(model, [True, False]):
        changed, same = embedding(tokens)
    assert torch.allclose(changed, plain[0] + added[tokens[0]])
    assert torch.equal(same, plain[1])


class Packed(nn.Linear):
    """Takes no weights but its own, as layers of 4 bits that unpack them."""

    def forward(self, read: Tensor) -> Tensor:
        assert self.weight is self.kept
        return super().forward(read)


def test_layers_that_unpack_their_weights(model: Model) -> None:
    path = f"{ATTENTION}.attn2.to_k"
    edit = WeightEdit({f"{path}.weight": LowRank(noise((16, 2), 1), noise((2, 16), 2))})
    with edit.applied(model, [True, False]):
        expected = predict(model)
    layer = model.denoiser.get_submodule(path)
    layer.__class__, layer.kept = Packed, layer.weight
    with edit.applied(model, [True, False]):
        assert torch.equal(predict(model), expected)
