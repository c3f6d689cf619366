from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_checkpoint import saved, some_neurons

from unmemorize import ExportError, export_single_file


def test_value_layers_are_found_by_their_values(tmp_path: Path) -> None:
    """The names of the file mean nothing."""
    pipe = saved("Stable Diffusion", tmp_path / "base")
    neurons = some_neurons(pipe)
    before = {
        f"model.diffusion_model.{index}": value.clone()
        for index, value in enumerate(pipe.unet.state_dict().values())
    }
    before["cond_stage_model.x"] = torch.randn(8, 16)
    names = {
        key: f"model.diffusion_model.{index}" for index, key in enumerate(pipe.unet.state_dict())
    }
    save_file(before, tmp_path / "one.safetensors", {"format": "pt"})
    export_single_file(pipe, neurons, tmp_path / "one.safetensors", tmp_path / "edited.safetensors")
    after = load_file(tmp_path / "edited.safetensors")
    edited = {names[f"{path}.weight"] for path in neurons.neurons.layers}
    for key, value in before.items():
        if key in edited:
            value[[1, 3]] = 0
        assert torch.equal(after[key], value)
    with pytest.raises(ExportError, match="exists already"):
        export_single_file(
            pipe, neurons, tmp_path / "one.safetensors", tmp_path / "edited.safetensors"
        )
    with pytest.raises(ExportError, match="0 times instead of once"):
        export_single_file(
            pipe, neurons, tmp_path / "edited.safetensors", tmp_path / "twice.safetensors"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base",
        "edited.safetensors",
        "one.safetensors",
    ]
    (tmp_path / "bad.safetensors").write_bytes(b"\x10" + bytes(30))
    with pytest.raises(ExportError, match="cannot be read as safetensors"):
        export_single_file(
            pipe, neurons, tmp_path / "bad.safetensors", tmp_path / "twice.safetensors"
        )


def test_values_behind_queries_and_keys(tmp_path: Path) -> None:
    """The original layout of Stable Diffusion 3 and Flux has the three projections as one tensor."""
    pipe = saved("Stable Diffusion 3", tmp_path / "base")
    neurons = some_neurons(pipe)
    weights, before = pipe.transformer.state_dict(), {}
    for number, path in enumerate(neurons.neurons.layers):
        for kind in ("weight", "bias"):
            parts = [
                weights[path.replace("add_v_proj", f"add_{letter}_proj") + f".{kind}"]
                for letter in "qkv"
            ]
            before[f"joint_blocks.{number}.context_block.attn.qkv.{kind}"] = torch.cat(parts)
    save_file(before, tmp_path / "one.safetensors")
    export_single_file(pipe, neurons, tmp_path / "one.safetensors", tmp_path / "edited.safetensors")
    after = load_file(tmp_path / "edited.safetensors")
    for key, value in before.items():
        value[[2 * len(value) // 3 + 1, 2 * len(value) // 3 + 3]] = 0
        assert torch.equal(after[key], value)


def test_nothing_half_edited_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    save_file(pipe.unet.state_dict(), tmp_path / "one.safetensors")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unmemorize.export._single_file.scale_rows", fail)
    with pytest.raises(KeyboardInterrupt):
        export_single_file(
            pipe, some_neurons(pipe), tmp_path / "one.safetensors", tmp_path / "edited.safetensors"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "one.safetensors"]


def test_averaged_weights_are_not_those_that_programs_load(tmp_path: Path) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    save_file(
        {f"model_ema.{key}": value for key, value in pipe.unet.state_dict().items()},
        tmp_path / "one.safetensors",
    )
    with pytest.raises(ExportError, match="0 times instead of once"):
        export_single_file(
            pipe, some_neurons(pipe), tmp_path / "one.safetensors", tmp_path / "edited.safetensors"
        )
