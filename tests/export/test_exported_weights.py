"""Edits of single weights in every form that is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

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
    EditFile,
    Erased,
    ExportError,
    Model,
    NeuronEdit,
    Neurons,
    bake,
    export_lora,
    export_single_file,
    verify,
)
from unmemorize.export import model_card
from unmemorize.generation import PrunedEdit, WeightEdit
from unmemorize.pipelines import load_pipeline

UNET = Path("unet/diffusion_pytorch_model.safetensors")
KEY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
FEED_FORWARD = "mid_block.attentions.0.transformer_blocks.0.ff.net.2"
PRUNED = PrunedEdit({FEED_FORWARD: tuple(range(0, 1024, 3))})


def noise(shape: tuple[int, ...]) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


DENSE = WeightEdit({f"{KEY}.weight": noise((16, 16)), "conv_in.bias": noise((8,))}, "esd")
LOW_RANK = WeightEdit({f"{KEY}.weight": noise((16, 2)) @ noise((2, 16))}, "esd")
COMBINED = CombinedEdit((PRUNED, ClosedFormEdit((Erased("a cat", 3.0),)), LOW_RANK))
WORDS = {
    "pruned": "342 weights of 1 layer set to zero",
    "weights": "2 tensors of weights moved (esd)",
    "combined": "set to zero, then 1 caption moved",
}


@pytest.mark.parametrize("edit", [PRUNED, DENSE, COMBINED], ids=lambda edit: edit.kind)
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
    if edit.kind != "weights":
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


def test_single_file(model: Model, tmp_path: Path) -> None:
    weights = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    save_file(weights, tmp_path / "base.st")
    file = EditFile.of(model, DENSE)
    output = export_single_file(model, file, tmp_path / "base.st", tmp_path / "new.safetensors")
    after = load_file(output)
    for name, difference in DENSE.differences.items():
        assert torch.allclose(after[name], weights[name] + difference, atol=1e-6)
    verification = verify(output, model, base_file=tmp_path / "base.st")
    assert (verification.passed, verification.edit) == (True, file)


def test_a_difference_of_low_rank_is_a_lora(model: Model, tmp_path: Path) -> None:
    file = EditFile.of(model, LOW_RANK)
    (path,) = export_lora(model, file, tmp_path, layout="diffusers")
    tensors = load_file(path)
    down, up = (tensors[f"unet.{KEY}.lora_{side}.weight"] for side in "AB")
    assert (down.shape, up.shape) == ((2, 16), (16, 2))
    assert torch.allclose(up @ down, LOW_RANK.differences[f"{KEY}.weight"], atol=1e-6)
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
        (WeightEdit({"conv_norm_out.weight": noise((8,))}), "weight of a normalization"),
    ],
)
def test_no_lora_without_a_low_rank(edit: Any, message: str, model: Model, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"{message}.* Export a checkpoint"):
        export_lora(model, EditFile.of(model, edit), tmp_path)


def test_edits_too_large_for_metadata(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmemorize.export._carried._LARGEST", 1000)
    with pytest.raises(ExportError, match="too much for the metadata"):
        export_lora(model, EditFile.of(model, LOW_RANK), tmp_path)


def test_weights_may_change_where_neurons_of_the_text_alone_could_not(tmp_path: Path) -> None:
    """Flux's later blocks project text and image by one layer, and a training changes both."""
    model = Model(make("Flux"))
    path = "single_transformer_blocks.1.attn.to_v"
    edit = WeightEdit({f"{path}.weight": noise((16, 2)) @ noise((2, 16))}, "hardening")
    (file,) = export_lora(model, EditFile.of(model, edit), tmp_path)
    tensors = load_file(file)
    down, up = (tensors[f"transformer.{path}.lora_{side}.weight"] for side in "AB")
    assert torch.allclose(up @ down, edit.differences[f"{path}.weight"], atol=1e-6)
    assert verify(tmp_path, model).passed
    neurons = NeuronEdit(Neurons({path: [1]}), 0.0)
    both = EditFile.of(model, CombinedEdit((edit, neurons)))
    with pytest.raises(ExportError, match=r"1\.attn\.to_v: it projects text and image together"):
        export_lora(model, both, tmp_path / "both")
