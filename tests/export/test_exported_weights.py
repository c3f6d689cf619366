"""Edits of single weights in every form that is exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from architectures import make
from artefacts import (  # noqa: F401 -- fixtures
    Saved,
    model_fixture,
    prediction,
    saved_model_fixture,
)
from unmemorize import (
    ClosedFormEdit,
    CombinedEdit,
    EditError,
    EditFile,
    Erased,
    ExportError,
    Model,
    NeuronEdit,
    NeuronFile,
    Neurons,
    bake,
    export_lora,
    export_single_file,
    verify,
)
from unmemorize.export import edit_of, load_edit_file, model_card
from unmemorize.generation import LowRank, PrunedEdit, WeightEdit, truncate, whole
from unmemorize.pipelines import load_pipeline

UNET = Path("unet/diffusion_pytorch_model.safetensors")
KEY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
CONVOLUTION = "mid_block.resnets.0.conv1"
FEED_FORWARD = "mid_block.attentions.0.transformer_blocks.0.ff.net.2"
PRUNED = PrunedEdit({FEED_FORWARD: tuple(range(0, 1024, 3))})


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


DENSE = WeightEdit({f"{KEY}.weight": noise((16, 16)), "conv_in.bias": noise((8,))}, "esd")
LOW_RANK = WeightEdit({f"{KEY}.weight": noise((16, 2)) @ noise((2, 16))}, "esd")
FACTORS = WeightEdit(
    {
        f"{KEY}.weight": LowRank(noise((16, 2)), noise((2, 16), seed=1)),
        f"{CONVOLUTION}.weight": LowRank(noise((16, 1), seed=2), noise((1, 16, 3, 3), seed=3)),
    },
    "hardening",
)
COMBINED = CombinedEdit((PRUNED, ClosedFormEdit((Erased("a cat", 3.0),)), LOW_RANK))
WORDS = {
    "pruned": "342 weights of 1 layer set to zero",
    "weights": "2 tensors of weights moved",
    "combined": "set to zero, then 1 caption moved",
}
KINDS = {"pruned": PRUNED, "dense": DENSE, "factors": FACTORS, "combined": COMBINED}


@pytest.mark.parametrize("edit", KINDS.values(), ids=KINDS)
def test_checkpoint(edit: Any, model: Model, tmp_path: Path) -> None:
    file = EditFile.of(model, edit)
    folder = bake(model, file, tmp_path / "edited", card=model_card(model, file))
    loaded = Model(load_pipeline(str(folder), device="cpu"))
    with edit.applied(model, [True]):
        expected = prediction(model)
    assert torch.allclose(prediction(loaded), expected, atol=1e-5)
    assert not torch.allclose(prediction(model), expected, atol=1e-4)
    verification = verify(folder, model)
    assert (verification.passed, verification.edit) == (True, file)
    assert WORDS[edit.kind] in (folder / "README.md").read_text()
    if edit.kind == "weights":
        # the same bits under the edit, in the checkpoint, and under the edit that was read back
        assert torch.equal(prediction(loaded), expected)
        with edit_of(load_edit_file(folder / "unmemorize_edit.json")).applied(model, [True]):
            assert torch.equal(prediction(model), expected)
        assert f"`{edit.file_name}` holds what was trained" in (folder / "README.md").read_text()
        (folder / edit.file_name).unlink()
        with pytest.raises(EditError, match=rf"{edit.file_name}: not there"):
            verify(folder, model)
    else:
        weight = load_file(folder / UNET)[f"{FEED_FORWARD}.weight"].flatten()
        assert not weight[::3].any()
        assert weight[1::3].all()


@pytest.mark.parametrize("edit", [PRUNED, DENSE], ids=lambda edit: edit.kind)
def test_damaged_checkpoints_do_not_pass(edit: Any, model: Model, tmp_path: Path) -> None:
    folder = bake(model, EditFile.of(model, edit), tmp_path / "edited")
    path = FEED_FORWARD if edit is PRUNED else KEY
    tensors = load_file(folder / UNET)
    with safe_open(folder / UNET, "pt") as handle:
        metadata = handle.metadata()
    tensors[f"{path}.weight"][0, 0] += 1e-2
    save_file(tensors, folder / UNET, metadata)
    assert [change.key for change in verify(folder, model).unexpected] == [f"{path}.weight"]
    base = model.denoiser.state_dict()[f"{path}.weight"]
    tensors[f"{path}.weight"] = base.clone()
    save_file(tensors, folder / UNET, metadata)
    assert not verify(folder, model).passed


@pytest.mark.parametrize("edit", [DENSE, FACTORS])
def test_single_file(edit: WeightEdit, model: Model, tmp_path: Path) -> None:
    weights = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    save_file(weights, tmp_path / "base.st")
    file = EditFile.of(model, edit)
    output = export_single_file(model, file, tmp_path / "base.st", tmp_path / "new.safetensors")
    after = load_file(output)
    for name, difference in edit.differences.items():
        assert torch.equal(after[name], weights[name] + whole(difference))
    verification = verify(output, model, base_file=tmp_path / "base.st")
    assert (verification.passed, verification.edit) == (True, file)
    (tmp_path / edit.file_name).unlink()
    with pytest.raises(EditError, match=rf"{edit.file_name}: not there"):
        verify(output, model, base_file=tmp_path / "base.st")


def test_a_difference_of_low_rank_is_a_lora(model: Model, tmp_path: Path) -> None:
    file = EditFile.of(model, LOW_RANK)
    (path,) = export_lora(model, file, tmp_path, layout="diffusers")
    tensors = load_file(path)
    down, up = (tensors[f"unet.{KEY}.lora_{side}.weight"] for side in "AB")
    assert (down.shape, up.shape) == ((2, 16), (16, 2))
    assert torch.allclose(up @ down, whole(LOW_RANK.differences[f"{KEY}.weight"]), atol=1e-6)
    assert verify(tmp_path, model).passed
    tensors[f"unet.{KEY}.lora_B.weight"][1] *= 1.01
    with safe_open(path, "pt") as handle:
        metadata = handle.metadata()
    save_file(tensors, path, metadata)
    assert len(verify(path, model).unexpected) == 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (WeightEdit({f"{KEY}.weight": noise((16, 16))}), "matrix of rank 16, so a LoRA"),
        (PRUNED, "matrix of rank 16, so a LoRA would be larger than the weight of 16 x 64"),
        (WeightEdit({"conv_norm_out.weight": noise((8,))}), r"neither \(GroupNorm\)"),
        (WeightEdit({"conv_norm_out.bias": noise((8,))}), r"neither \(GroupNorm\)"),
    ],
)
def test_no_lora_without_a_low_rank(edit: Any, message: str, model: Model, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"{message}.* Export a checkpoint"):
        export_lora(model, EditFile.of(model, edit), tmp_path)


def test_an_embedding_is_no_layer_of_a_lora(model: Model, tmp_path: Path) -> None:
    path, embedding = next(
        (f"text_encoder.{path}", module)
        for path, module in model.pipe.text_encoder.named_modules()
        if isinstance(module, nn.Embedding)
    )
    words, features = embedding.weight.shape
    edit = WeightEdit({f"{path}.weight": LowRank(noise((words, 1)), noise((1, features)))})
    with pytest.raises(ExportError, match=r"neither \(Embedding\)"):
        export_lora(model, edit, tmp_path)


def test_biases_alone_are_a_lora(model: Model, tmp_path: Path) -> None:
    edit = WeightEdit({"conv_in.bias": noise((8,))})
    (path,) = export_lora(model, edit, tmp_path)
    assert verify(path, model).passed
    with edit.applied(model, [True]):
        expected = prediction(model)
    pipe = make("Stable Diffusion")
    pipe.load_lora_weights(tmp_path)
    assert torch.allclose(prediction(Model(pipe)), expected, atol=1e-6)
    assert not torch.allclose(prediction(model), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "component", "loadable"),
    [
        ("Flux", "text_encoder_2", "transformer and text_encoder"),
        ("Stable Diffusion 3", "text_encoder_3", "transformer and text_encoder and text_encoder_2"),
        ("Sana", "text_encoder", "transformer"),
    ],
)
def test_no_lora_for_text_encoders_that_diffusers_passes_over(
    name: str, component: str, loadable: str, tmp_path: Path
) -> None:
    """It would load the file without an error, and change nothing."""
    model = Model(make(name))
    path, layer = next(
        (path, module)
        for path, module in getattr(model.pipe, component).named_modules()
        if isinstance(module, nn.Linear)
    )
    features, inputs = layer.weight.shape
    change = LowRank(noise((features, 1)), noise((1, inputs)))
    edit = WeightEdit({f"{component}.{path}.weight": change})
    for layout in (None, "diffusers"):
        with pytest.raises(ExportError, match=rf"its {component}, .* into {loadable} alone\. Exp"):
            export_lora(model, edit, tmp_path, layout=layout)


def test_a_full_rank_is_cut_where_a_user_asks_for_it(
    cli: Callable[..., tuple[int, str, str]], model: Model, tmp_path: Path
) -> None:
    assert model.loading is not None
    EditFile.of(model, DENSE).save(tmp_path / "edit.json")
    options = ("--model", model.loading.model, "--device", "cpu", "-o", tmp_path / "lora")
    command = ("export", "lora", tmp_path / "edit.json", *options)
    code, _, problem = cli(*command)
    assert (code, "--rank" in problem) == (1, True)
    code, out, _ = cli(*command, "--rank", 3)
    cut = truncate(DENSE, 3)
    words = f"1 tensor of weights moved by matrices of rank 3 ({cut.edit.source}) at strength 1"
    assert (code, words in " ".join(out.split())) == (0, True)
    assert "another edit than" in out
    verification = verify(tmp_path / "lora", model)
    assert (verification.passed, edit_of(verification.edit)) == (True, cut.edit)
    NeuronFile.of(model, Neurons({next(iter(model.value_layers)): [1]})).save(tmp_path / "n.json")
    code, _, problem = cli("export", "lora", tmp_path / "n.json", *options, "--rank", 3)
    assert (code, "only trained weights are cut to a rank" in problem) == (1, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_lora_holds_the_factors_themselves(dtype: torch.dtype, tmp_path: Path) -> None:
    """Padded with zeros to one rank, in every layout, whatever type the model is loaded in."""
    model = Model(make("Stable Diffusion").to(dtype))
    file = EditFile.of(model, FACTORS)
    files = export_lora(model, file, tmp_path, card=model_card(model, file, lora=True))
    one, other = map(load_file, files)
    for name, factors in FACTORS.differences.items():
        layer = name.removesuffix(".weight")
        kohya = f"lora_unet_{layer.replace('.', '_')}"
        assert isinstance(factors, LowRank)
        down = torch.cat([factors.down, torch.zeros(2, *factors.down.shape[1:])])[:2]
        up = torch.cat([factors.up, torch.zeros(16, 2)], dim=1)[:, :2]
        up = up.view(*up.shape, *[1] * (down.ndim - 2))
        assert torch.equal(one[f"unet.{layer}.lora_A.weight"], down)
        assert torch.equal(one[f"unet.{layer}.lora_B.weight"], up)
        assert torch.equal(other[f"{kohya}.lora_down.weight"], down)
        assert torch.equal(other[f"{kohya}.lora_up.weight"], up)
    verification = verify(tmp_path, model)
    assert (verification.passed, verification.edit) == (True, file)
    assert verification.files == tuple(sorted(files))
    assert FACTORS.file_name in (tmp_path / "README.md").read_text()
    (tmp_path / FACTORS.file_name).rename(tmp_path / "elsewhere")
    with pytest.raises(EditError, match=rf"{FACTORS.file_name}: not there.* Put it beside"):
        verify(files[0], model)


def test_factors_and_neurons_of_one_layer_are_one_lora(model: Model, tmp_path: Path) -> None:
    path = f"{KEY.removesuffix('to_k')}to_v"
    weights = WeightEdit({f"{path}.weight": LowRank(noise((16, 2)), noise((2, 16), seed=1))})
    edit = CombinedEdit((weights, NeuronEdit(Neurons({path: [3]}), 0.5)))
    (file,) = export_lora(model, EditFile.of(model, edit), tmp_path, layout="diffusers")
    tensors = load_file(file)
    down, up = (tensors[f"unet.{path}.lora_{side}.weight"] for side in "AB")
    before = model.denoiser.state_dict()[f"{path}.weight"]
    after = before + whole(weights.differences[f"{path}.weight"])
    after[3] *= 0.5
    assert down.shape == (3, 16)
    assert torch.allclose(before + up @ down, after, atol=1e-6)
    assert verify(tmp_path, model).passed


def test_entries_too_many_for_metadata(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    save_file(weights, tmp_path / "base.st")
    monkeypatch.setattr("unmemorize.export._carried._LARGEST", 1000)
    file = EditFile.of(model, PRUNED)
    with pytest.raises(ExportError, match="too much for the metadata"):
        export_single_file(model, file, tmp_path / "base.st", tmp_path / "new.safetensors")
    assert not (tmp_path / "new.safetensors").exists()


def test_weights_may_change_where_neurons_of_the_text_alone_could_not(tmp_path: Path) -> None:
    """Flux's later blocks project text and image by one layer, and a training changes both."""
    model = Model(make("Flux"))
    path = "single_transformer_blocks.1.attn.to_v"
    edit = WeightEdit({f"{path}.weight": noise((16, 2)) @ noise((2, 16))}, "hardening")
    (file,) = export_lora(model, EditFile.of(model, edit), tmp_path)
    tensors = load_file(file)
    down, up = (tensors[f"transformer.{path}.lora_{side}.weight"] for side in "AB")
    assert torch.allclose(up @ down, whole(edit.differences[f"{path}.weight"]), atol=1e-6)
    assert verify(tmp_path, model).passed
    neurons = NeuronEdit(Neurons({path: [1]}), 0.0)
    both = EditFile.of(model, CombinedEdit((edit, neurons)))
    with pytest.raises(ExportError, match=r"1\.attn\.to_v: it projects text and image together"):
        export_lora(model, both, tmp_path / "both")
