"""Closed-form edits and combinations in every form that is exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from architectures import make
from artefacts import (  # noqa: F401 -- fixtures
    Saved,
    model_fixture,
    own_model_fixture,
    prediction,
    saved_model_fixture,
)
from unmemorize import (
    ClosedFormEdit,
    ClosedFormNeuronEdit,
    CombinedEdit,
    EditError,
    EditFile,
    Erased,
    ExportError,
    Model,
    NeuronEdit,
    Neurons,
    Reread,
    bake,
    export_lora,
    export_single_file,
    verify,
)
from unmemorize.export import model_card
from unmemorize.generation import Edit
from unmemorize.pipelines import load_pipeline

UNET = Path("unet/diffusion_pytorch_model.safetensors")
CLOSED = ClosedFormEdit((Erased("a cat", 3.0), Erased("zebra", 3.0)), ("a dog", "rain on a hill"))


def combined(model: Model) -> CombinedEdit:
    layers = list(model.value_layers)
    neurons = Neurons({layers[0]: [1, 3], layers[3]: [0]})
    return CombinedEdit((CLOSED, NeuronEdit(neurons, -0.25)))


def closed(_model: Model) -> ClosedFormEdit:
    return CLOSED


def two_closed(_model: Model) -> CombinedEdit:
    return CombinedEdit((CLOSED, ClosedFormEdit((Erased("a bird", 10.0),), ("a dog",))))


def with_reread_neurons(model: Model) -> CombinedEdit:
    layers = list(model.value_layers)
    reread = (
        Reread("zebra", Neurons({layers[0]: [1, 2], layers[2]: [0]}), 3.0, reach=1.5),
        Reread("a bird", Neurons({layers[0]: [2]}), guide="a dog"),
    )
    neurons = NeuronEdit(Neurons({layers[0]: [1]}), -0.25)
    return CombinedEdit((CLOSED, ClosedFormNeuronEdit(reread, ("rain on a hill",)), neurons))


EDITS = [closed, combined, two_closed, with_reread_neurons]
MakeEdit = Callable[[Model], Edit]


def edited_prediction(model: Model, edit: Edit) -> torch.Tensor:
    with edit.applied(model, [True]):
        return prediction(model)


@pytest.mark.parametrize("make_edit", EDITS)
def test_checkpoint(make_edit: MakeEdit, model: Model, tmp_path: Path) -> None:
    edit = make_edit(model)
    file = EditFile.of(model, edit)
    folder = bake(model, file, tmp_path / "edited", card=model_card(model, file))
    loaded = Model(load_pipeline(str(folder), device="cpu"))
    expected = edited_prediction(model, edit)
    assert torch.allclose(prediction(loaded), expected, atol=1e-5)
    assert not torch.allclose(prediction(model), expected, atol=1e-3)
    verification = verify(folder, model)
    assert (verification.passed, verification.edit) == (True, file)
    assert len(verification.changes) == 14
    assert EditFile.load(folder / "unmemorize_edit.json") == file
    card = (folder / "README.md").read_text()
    assert "2 captions moved (closed form, weight 3)" in card
    assert "| zebra | (the empty prompt) |\n" in card
    assert ("single value neurons" in card) == (make_edit is with_reread_neurons)
    if make_edit is with_reread_neurons:
        projections, _, neurons = card.partition("single value neurons")
        assert "a bird" not in projections
        assert "| a bird | a dog |\n" in neurons
        assert "| zebra | (the empty prompt) |\n" in neurons


def test_what_an_edit_leaves_alone_keeps_every_bit(own_model: Model, tmp_path: Path) -> None:
    """A weight of -0.0 would become 0.0 where nothing is added to it, and fail the check."""
    path = next(iter(own_model.value_layers))
    tensors = load_file(tmp_path / "base" / UNET)
    tensors[f"{path}.weight"][0] = -0.0
    save_file(tensors, tmp_path / "base" / UNET, {"format": "pt"})
    model = Model.load(str(tmp_path / "base"), device="cpu")
    edit = ClosedFormNeuronEdit((Reread("zebra", Neurons({path: [3]})),), ("a dog",))
    verification = verify(bake(model, edit, tmp_path / "edited"), model)
    assert [(change.key, change.rows) for change in verification.changes] == [
        (f"{path}.weight", (3,))
    ]
    assert verification.passed


def test_a_checkpoint_in_float16_is_right_for_another_device(tmp_path: Path) -> None:
    """There, embeddings are rounded otherwise, and the folder rounds the weights once more."""
    pipe = make("Stable Diffusion")
    pipe.to(torch.float16).save_pretrained(tmp_path / "base")
    model, other = (
        Model.load(str(tmp_path / "base"), device="cpu", dtype="float32", local_files_only=True)
        for _ in range(2)
    )
    little = ClosedFormEdit((Erased("a cat", 0.3),), CLOSED.keep)
    folder = bake(model, EditFile.of(model, little), tmp_path / "edited")
    generator = torch.Generator().manual_seed(0)

    def rounded_otherwise(_encoder: object, _args: object, output: Any) -> Any:
        text = output.last_hidden_state
        output.last_hidden_state = text * (1 + 1e-5 * torch.randn(text.shape, generator=generator))
        return output

    other.pipe.text_encoder.register_forward_hook(rounded_otherwise)
    assert not torch.equal(other.encode(["a cat"]).text, model.encode(["a cat"]).text)
    assert [verify(folder, each).passed for each in (model, other)] == [True, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_checkpoint_with_a_part_of_its_edit_does_not_pass(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """In half precision, single rows may miss much of what a closed form is solved again for."""
    pipe = make("Stable Diffusion")
    pipe.to(dtype).save_pretrained(tmp_path / "base")
    model = Model.load(
        str(tmp_path / "base"), device="cpu", dtype=str(dtype).split(".")[1], local_files_only=True
    )
    edit = ClosedFormEdit((Erased("a cat", 10.0),), CLOSED.keep)
    folder = bake(model, EditFile.of(model, edit), tmp_path / "edited")
    assert verify(folder, model).passed
    whole, base = load_file(folder / UNET), model.denoiser.state_dict()
    with safe_open(folder / UNET, "pt") as handle:
        metadata = handle.metadata()

    def passed(share: float, noise: float) -> bool:
        generator = torch.Generator().manual_seed(0)
        tensors = {}
        for name, value in whole.items():
            change = value.double() - base[name].double()
            size = noise * change.square().mean().sqrt()
            random = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            moved = base[name].double() + share * change + size * random * (change != 0)
            tensors[name] = moved.to(dtype)
        save_file(tensors, folder / UNET, metadata)
        return verify(folder, model).passed

    assert passed(1.0, 0.05)  # as on another device
    assert not any(passed(share, 0.0) for share in (0.55, 0.85, 1.2))


def test_damaged_checkpoints_do_not_pass(model: Model, tmp_path: Path) -> None:
    folder = bake(model, EditFile.of(model, CLOSED), tmp_path / "edited")
    key = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    whole = load_file(folder / UNET)
    with safe_open(folder / UNET, "pt") as handle:
        metadata = handle.metadata()

    def unexpected(change: Callable[[dict[str, torch.Tensor]], object]) -> set[str]:
        tensors = {name: value.clone() for name, value in whole.items()}
        change(tensors)
        save_file(tensors, folder / UNET, metadata)
        return {change.key for change in verify(folder, model).unexpected}

    assert unexpected(lambda _tensors: None) == set()
    assert unexpected(lambda tensors: tensors[key][2].mul_(1.01)) == {key}
    assert unexpected(lambda tensors: tensors["conv_in.bias"].add_(1)) == {"conv_in.bias"}
    base = model.denoiser.state_dict()[key]
    assert unexpected(lambda tensors: tensors[key].copy_(base)) == {key}


@pytest.mark.parametrize("make_edit", EDITS)
def test_single_file(make_edit: MakeEdit, model: Model, tmp_path: Path) -> None:
    edit = make_edit(model)
    named = enumerate(model.denoiser.state_dict().items())
    names = {f"model.{index}": name for index, (name, _) in named}
    weights = model.denoiser.state_dict()
    save_file({key: weights[name].clone() for key, name in names.items()}, tmp_path / "base.st")
    file = EditFile.of(model, edit)
    output = export_single_file(model, file, tmp_path / "base.st", tmp_path / "edited.safetensors")
    after = load_file(output)
    pipe = make("Stable Diffusion")
    pipe.unet.load_state_dict({names[key]: value for key, value in after.items()})
    assert torch.allclose(prediction(Model(pipe)), edited_prediction(model, edit), atol=1e-5)
    verification = verify(output, model, base_file=tmp_path / "base.st")
    assert (verification.passed, verification.edit) == (True, file)
    assert len(verification.changes) == 14


@pytest.mark.parametrize("make_edit", EDITS)
@pytest.mark.parametrize("name", ["Stable Diffusion", "Stable Diffusion XL", "DeepFloyd IF"])
def test_lora(name: str, make_edit: MakeEdit, tmp_path: Path) -> None:
    """Merged by hand in float64, the factors give the edited weights."""
    model = Model(make(name).to(torch.float64))
    edit = make_edit(model)
    file = EditFile.of(model, edit)
    files = export_lora(model, file, tmp_path)
    assert len(files) == (1 if name == "DeepFloyd IF" else 2)
    verification = verify(tmp_path, model)
    assert (verification.passed, verification.edit) == (True, file)
    changes = edit.changes(model)
    diffusers = load_file(files[0])
    for path, change in changes.items():
        down, up = (diffusers[f"unet.{path}.lora_{side}.weight"] for side in "AB")
        weight = model.denoiser.get_submodule(path).weight
        assert isinstance(weight, torch.Tensor)
        assert torch.allclose(weight + up @ down, change.of_weight(weight), atol=1e-10)


def test_a_combination_of_low_rank_stays_one(tmp_path: Path) -> None:
    """One caption and three neurons need fewer directions than the 32 that the layers read."""
    model = Model(make("Stable Diffusion XL").to(torch.float64))
    neurons = Neurons({next(iter(model.value_layers)): [0, 1, 4]})
    edit = CombinedEdit(
        (ClosedFormEdit((Erased("a", 3.0),), ("a dog",)), NeuronEdit(neurons, -0.5))
    )
    (file,) = export_lora(model, EditFile.of(model, edit), tmp_path, layout="diffusers")
    tensors = load_file(file)
    for path, change in edit.changes(model).items():
        down, up = (tensors[f"unet.{path}.lora_{side}.weight"] for side in "AB")
        weight = model.denoiser.get_submodule(path).weight
        assert isinstance(weight, torch.Tensor)
        assert len(down) < down.shape[1] == 32
        assert torch.allclose(weight + up @ down, change.of_weight(weight), atol=1e-10)


def test_a_lora_has_the_rank_that_the_edit_needs(tmp_path: Path) -> None:
    """One word and the end of the text: three tokens would be too many for 16 inputs."""
    model = Model(make("Stable Diffusion"))
    edit = ClosedFormEdit((Erased("a", 3.0),), ("a dog", "rain on a hill"))
    matrix = next(iter(edit.changes(model).values())).inputs
    assert matrix is not None
    rank = int(torch.linalg.matrix_rank(matrix - torch.eye(16, dtype=torch.float64), rtol=1e-9))
    (file,) = export_lora(model, EditFile.of(model, edit), tmp_path, layout="diffusers")
    down = next(value for key, value in load_file(file).items() if key.endswith("lora_A.weight"))
    assert down.shape == (rank, 16)


@pytest.mark.parametrize("strength", [1.0, 0.0])
def test_a_lora_is_loaded_by_diffusers(strength: float, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = Model(make("Stable Diffusion").to(torch.float64))
    edit = combined(model)
    export_lora(model, EditFile.of(model, edit), tmp_path)
    expected = edited_prediction(model, edit) if strength else prediction(model)
    model.pipe.load_lora_weights(tmp_path, adapter_name="unmemorize")
    model.pipe.set_adapters(["unmemorize"], adapter_weights=[strength])
    assert torch.allclose(prediction(model), expected, atol=1e-6)


def test_a_damaged_lora_does_not_pass(tmp_path: Path) -> None:
    model = Model(make("Stable Diffusion"))
    for file in export_lora(model, EditFile.of(model, combined(model)), tmp_path):
        assert verify(file, model).passed
        with safe_open(file, "pt") as handle:
            metadata = handle.metadata()
        tensors = load_file(file)
        key = next(name for name in sorted(tensors) if "lora_B" in name or "lora_up" in name)
        tensors[key][1] *= 1.01
        save_file(tensors, file, metadata)
        assert len(verify(file, model).unexpected) == 1


def test_an_edit_file_is_verified_itself(model: Model, tmp_path: Path) -> None:
    EditFile.of(model, with_reread_neurons(model)).save(tmp_path / "edit.json")
    verification = verify(tmp_path / "edit.json", model)
    assert (verification.kind, verification.passed) == ("edit file", True)
    with pytest.raises(EditError, match="was made for"):
        verify(tmp_path / "edit.json", Model(make("Stable Diffusion", seed=1)))


def test_an_edit_that_changes_nothing(tmp_path: Path) -> None:
    model = Model(make("Stable Diffusion"))
    with pytest.raises(ExportError, match="the edit changes nothing"):
        export_lora(model, EditFile.of(model, ClosedFormEdit((Erased(""),))), tmp_path)


def test_the_command_line_takes_edit_files(
    cli: Callable[..., tuple[int, str, str]], model: Model, tmp_path: Path
) -> None:
    assert model.loading is not None
    EditFile.of(model, combined(model)).save(tmp_path / "edit.json")
    options = ("--model", model.loading.model, "--device", "cpu", "-o", tmp_path / "lora")
    code, out, _ = cli("export", "lora", tmp_path / "edit.json", *options)
    words = "weight 3), then 3 value neurons at -0.25 of full strength"
    assert (code, f"{words} at strength 1" in out) == (0, True)
    code, out, _ = cli("verify", tmp_path / "lora", model.loading.model, "--device", "cpu")
    assert (code, f"{words}: changed as it should be" in out) == (0, True)
    rows, _, keys = out.partition("rows that differ: 0 to 7 ")[2].partition("attn2.to_k")
    assert "rows that differ" not in rows  # those of one kind are listed together
    assert "attn2.to_k" in keys
