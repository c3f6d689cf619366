import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from artefacts import (  # noqa: F401 -- fixtures
    Saved,
    model_fixture,
    saved_model_fixture,
    some_neurons,
)
from unmemorize import ExportError, Model, NeuronFile, Neurons, export_single_file
from unmemorize.export import check_single_file
from unmemorize.export._carried import carried_edit


def test_value_layers_are_found_by_their_values(model: Model, tmp_path: Path) -> None:
    """The names of the file mean nothing."""
    paths = list(model.value_layers)
    rows = {path: [number, number + 1] for number, path in enumerate(paths)}
    neurons = NeuronFile.of(model, Neurons(rows), scale=0.5)
    weights = model.denoiser.state_dict()
    before = {
        f"model.diffusion_model.{index}": value.clone()
        for index, value in enumerate(weights.values())
    }
    before["cond_stage_model.x"] = torch.randn(8, 16)
    layers = {
        f"model.diffusion_model.{index}": key.removesuffix(".weight")
        for index, key in enumerate(weights)
    }
    base, output = tmp_path / "one.safetensors", tmp_path / "edited.safetensors"
    save_file(before, base, {"format": "pt"})
    assert export_single_file(model, neurons, base, output) == output
    after = load_file(output)
    assert after.keys() == before.keys()
    for key, value in before.items():
        if (path := layers.get(key, "")) in rows:
            value[rows[path]] *= 0.5
        assert torch.equal(after[key], value)
        assert after[key].dtype == value.dtype
    assert carried_edit(output) == neurons
    with pytest.raises(ExportError, match="exists already"):
        export_single_file(model, neurons, base, output)
    with pytest.raises(ExportError, match="0 times instead of once"):
        export_single_file(model, neurons, output, tmp_path / "twice.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "edited.safetensors",
        "one.safetensors",
    ]
    (tmp_path / "bad.safetensors").write_bytes(b"\x10" + bytes(30))
    with pytest.raises(ExportError, match="cannot be read as safetensors"):
        export_single_file(
            model, neurons, tmp_path / "bad.safetensors", tmp_path / "twice.safetensors"
        )


def test_weights_that_are_there_twice_are_refused(model: Model, tmp_path: Path) -> None:
    """Nobody knows which of the two a program loads."""
    path = next(iter(model.value_layers))
    weights = model.denoiser.state_dict()
    doubled = {**weights, "another": weights[f"{path}.weight"].clone()}
    save_file(doubled, tmp_path / "one.safetensors")
    output = tmp_path / "edited.safetensors"
    with pytest.raises(ExportError, match=f"weight of {path} 2 times instead of once"):
        export_single_file(model, some_neurons(model), tmp_path / "one.safetensors", output)
    assert not output.exists()


def test_values_behind_queries_and_keys(saved_model: Saved, tmp_path: Path) -> None:
    """The original layout of Stable Diffusion 3 and Flux has the three projections as one."""
    model = saved_model("Stable Diffusion 3")
    neurons = some_neurons(model, 0.5)
    weights, before = model.denoiser.state_dict(), {}
    for number, path in enumerate(neurons.neurons.layers):
        for kind in ("weight", "bias"):
            projections = [
                weights[path.replace("add_v_proj", f"add_{letter}_proj") + f".{kind}"]
                for letter in "qkv"
            ]
            before[f"joint_blocks.{number}.context_block.attn.qkv.{kind}"] = torch.cat(projections)
    base, output = tmp_path / "one.safetensors", tmp_path / "edited.safetensors"
    save_file(before, base)
    export_single_file(model, neurons, base, output)
    after = load_file(output)
    for key, value in before.items():
        value[[2 * len(value) // 3 + 1, 2 * len(value) // 3 + 3]] *= 0.5
        assert torch.equal(after[key], value)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("Stable Diffusion 3", "add_v_proj.bias"),  # scaled with the neurons
        ("Stable Diffusion", "attn2.to_k.weight"),  # edited by closed forms
    ],
)
def test_a_file_that_lacks_what_may_be_edited_is_refused_before_the_work(
    saved_model: Saved, tmp_path: Path, name: str, missing: str
) -> None:
    model, base = saved_model(name), tmp_path / "one.safetensors"
    weights = model.denoiser.state_dict()
    save_file(weights, base)
    check_single_file(model, base)
    save_file({key: value for key, value in weights.items() if missing not in key}, base)
    layer, _, kind = missing.rpartition(".")
    with pytest.raises(ExportError, match=rf"the {kind} of .*{re.escape(layer)} 0 times"):
        check_single_file(model, base)


def test_nothing_half_edited_is_left(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(model.denoiser.state_dict(), tmp_path / "one.safetensors")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unmemorize.export._single_file.rewrite_rows", fail)
    with pytest.raises(KeyboardInterrupt):
        export_single_file(
            model,
            some_neurons(model),
            tmp_path / "one.safetensors",
            tmp_path / "edited.safetensors",
        )
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


def test_averaged_weights_are_not_those_that_programs_load(model: Model, tmp_path: Path) -> None:
    averaged = {f"model_ema.{key}": value for key, value in model.denoiser.state_dict().items()}
    save_file(averaged, tmp_path / "one.safetensors")
    with pytest.raises(ExportError, match="0 times instead of once"):
        export_single_file(
            model,
            some_neurons(model),
            tmp_path / "one.safetensors",
            tmp_path / "edited.safetensors",
        )
