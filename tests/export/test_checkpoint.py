import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from architectures import ARCHITECTURES, make
from unmemorize import (
    ExportError,
    Model,
    NeuronError,
    NeuronFile,
    Neurons,
    bake,
    export_lora,
    load_pipeline,
    switched_off,
)
from unmemorize.export import changes, folder_of
from unmemorize.export._rows import differing_rows
from unmemorize.pipelines import text_rows_only


def saved(name: str, folder: Path) -> Any:
    """A tiny pipeline that was loaded from a folder."""
    make(name).save_pretrained(folder)
    return load_pipeline(str(folder), device="cpu", local_files_only=True)


def some_neurons(pipe: DiffusionPipeline, scale: float = 0.0) -> NeuronFile:
    """Two neurons of each layer that weights can switch off."""
    model = Model(pipe)
    return NeuronFile.of(
        model,
        Neurons({path: [1, 3] for path in model.value_layers if not text_rows_only(path)}),
        scale=scale,
    )


def prediction(pipe: DiffusionPipeline) -> torch.Tensor:
    model = Model(pipe)
    return model.predict(
        model.draw_latents(2, 0), model.timesteps(50)[1], model.encode(["a prompt", "another"])
    )


@pytest.mark.parametrize("scale", [0.0, -0.5])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_a_baked_model_is_the_switched_off_one(name: str, scale: float, tmp_path: Path) -> None:
    pipe = saved(name, tmp_path / "base")
    neurons = some_neurons(pipe, scale)
    bake(pipe, neurons, tmp_path / "baked")
    plain = type(pipe).from_pretrained(tmp_path / "baked", local_files_only=True)
    with switched_off(pipe, neurons.neurons, scale=scale):
        expected = prediction(pipe)
    if scale:
        torch.testing.assert_close(prediction(plain), expected)
    else:
        assert torch.equal(prediction(plain), expected)
    found = list(changes(tmp_path / "baked", tmp_path / "base", Model(pipe), neurons))
    assert {
        change.key.removesuffix(".weight") for change in found if change.key.endswith(".weight")
    } == set(neurons.neurons.layers)
    assert all(change.asked and change.rows == (1, 3) for change in found)
    assert NeuronFile.load(tmp_path / "baked" / "unmemorize_neurons.json") == neurons


def test_only_the_bytes_of_the_rows_change(tmp_path: Path) -> None:
    make("PixArt").save_pretrained(tmp_path / "base", variant="fp16")
    pipe = load_pipeline(
        str(tmp_path / "base"), device="cpu", variant="fp16", local_files_only=True
    )
    neurons = some_neurons(pipe)
    bake(pipe, neurons, tmp_path / "baked")
    name = "transformer/diffusion_pytorch_model.fp16.safetensors"
    old, new = ((tmp_path / folder / name).read_bytes() for folder in ("base", "baked"))
    width = 16 * 4
    assert len(old) == len(new)
    assert (
        0
        < sum(one != other for one, other in zip(old, new, strict=True))
        <= len(neurons.neurons) * (width + 4)
    )
    files = {
        path.relative_to(tmp_path / "base")
        for path in (tmp_path / "base").rglob("*")
        if path.is_file()
    }
    for path in files - {Path(name)}:
        assert (tmp_path / "base" / path).read_bytes() == (tmp_path / "baked" / path).read_bytes()
    bake(pipe, neurons, tmp_path / "again")
    assert (tmp_path / "again" / name).read_bytes() == new


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_in_every_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    from unmemorize.export._rows import scale_rows

    weights = {"a": torch.randn(5, 3).to(dtype), "b": torch.randn(4).to(dtype)}
    save_file(weights, tmp_path / "w.safetensors")
    scale_rows(tmp_path / "w.safetensors", {"a": [0, 4]}, 0.5)
    scale_rows(tmp_path / "w.safetensors", {"b": [2]}, 0.0)
    after = load_file(tmp_path / "w.safetensors")
    expected = {name: value.clone() for name, value in weights.items()}
    expected["a"][[0, 4]] *= 0.5
    expected["b"][2] = 0
    assert all(torch.equal(after[name], expected[name]) for name in weights)


def test_other_types_are_refused(tmp_path: Path) -> None:
    from unmemorize.export._rows import scale_rows

    save_file({"a": torch.ones(3, 2, dtype=torch.int8)}, tmp_path / "w.safetensors")
    with pytest.raises(ExportError, match="a is stored as I8"):
        scale_rows(tmp_path / "w.safetensors", {"a": [0]}, 0.0)


def test_pickles_stay_behind(tmp_path: Path) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    (tmp_path / "base" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"code")
    bake(pipe, some_neurons(pipe), tmp_path / "baked")
    assert not list((tmp_path / "baked").rglob("*.bin"))
    assert all(
        change.asked
        for change in changes(
            tmp_path / "baked", tmp_path / "base", Model(pipe), some_neurons(pipe)
        )
    )


def test_the_whole_model_in_one_file_stays_behind(tmp_path: Path) -> None:
    """Repositories keep one beside the folders of the components; it would have the neurons on."""
    pipe = saved("Stable Diffusion", tmp_path / "base")
    save_file({"a": torch.ones(2)}, tmp_path / "base" / "v1-5-pruned.safetensors")
    bake(pipe, some_neurons(pipe), tmp_path / "baked")
    assert not list((tmp_path / "baked").glob("*.safetensors"))
    assert all(
        change.asked
        for change in changes(
            tmp_path / "baked", tmp_path / "base", Model(pipe), some_neurons(pipe)
        )
    )


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["scale_rows", "shutil.copyfile"])
def test_nothing_half_edited_is_left(
    problem: BaseException, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")

    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(f"unmemorize.export._checkpoint.{where}", fail)
    expected = ExportError if isinstance(problem, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        bake(pipe, some_neurons(pipe), tmp_path / "baked")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_folder_of_other_weights_is_refused(tmp_path: Path) -> None:
    """The folder that a pipeline names may hold another revision, or its denoiser may have been exchanged."""
    pipe = saved("Stable Diffusion", tmp_path / "base")
    make("Stable Diffusion", seed=1).save_pretrained(tmp_path / "base")
    with pytest.raises(ExportError, match="is not what the loaded model has there"):
        bake(pipe, some_neurons(pipe), tmp_path / "baked")
    assert not (tmp_path / "baked").exists()


def test_the_folder_is_that_of_the_loaded_revision(tmp_path: Path) -> None:
    """A pipeline from the Hub names its id; its denoiser knows the folder in the cache."""
    pipe = saved("Stable Diffusion", tmp_path / "snapshots" / "abc")
    pipe.register_to_config(_name_or_path="someone/model")
    assert folder_of(Model(pipe)) == tmp_path / "snapshots" / "abc"
    pipe.unet.register_to_config(_name_or_path=str(tmp_path / "elsewhere" / "unet"))
    with pytest.raises(ExportError, match="someone/model: has no files here"):
        folder_of(Model(pipe))


def test_a_loaded_lora_is_refused(tmp_path: Path) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    export_lora(pipe, some_neurons(pipe), tmp_path / "lora")
    pipe.load_lora_weights(tmp_path / "lora")
    neurons = some_neurons(pipe)
    with pytest.raises(ExportError, match="a LoRA is loaded"):
        bake(pipe, neurons, tmp_path / "baked")
    with pytest.raises(ExportError, match="a LoRA is loaded"):
        export_lora(pipe, neurons, tmp_path / "second")


def test_baking_refuses(tmp_path: Path) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    neurons = some_neurons(pipe)
    with pytest.raises(ExportError, match="exists already"):
        bake(pipe, neurons, tmp_path)
    with pytest.raises(NeuronError, match="were found in"):
        bake(saved("Stable Diffusion XL", tmp_path / "other"), neurons, tmp_path / "baked")
    with pytest.raises(ExportError, match="has no files here"):
        bake(make("Stable Diffusion"), neurons, tmp_path / "baked")
    flux = saved("Flux", tmp_path / "flux")
    shared = NeuronFile.of(Model(flux), Neurons({"single_transformer_blocks.0.attn.to_v": [1]}))
    with pytest.raises(ExportError, match="projects text and image together"):
        bake(flux, shared, tmp_path / "baked")
    for file in (tmp_path / "base" / "unet").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ExportError, match="no safetensors file of the denoiser"):
        bake(pipe, neurons, tmp_path / "baked")


Cli = Callable[..., tuple[int, str, str]]


def test_verify_tells_an_edit_from_anything_else(cli: Cli, tmp_path: Path) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    neurons = some_neurons(pipe)
    neurons.save(tmp_path / "n.json")
    options = ("--model", tmp_path / "base", "--device", "cpu")
    code, out, _ = cli(
        "export", "checkpoint", tmp_path / "n.json", *options, "-o", tmp_path / "baked"
    )
    assert (code, "14 neurons off" in out) == (0, True)
    card = (tmp_path / "baked" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "it is no proof of erasure" in " ".join(card.split())
    code, out, _ = cli("verify", tmp_path / "baked", tmp_path / "base")
    assert (code, "14 neurons changed as they should be, and nothing else" in out) == (0, True)
    code, out, _ = cli("verify", tmp_path / "n.json", tmp_path / "base")
    assert (code, "whose fingerprint fits" in out) == (0, True)
    make("Stable Diffusion", seed=1).save_pretrained(tmp_path / "foreign")
    for artefact in ("baked", "n.json"):
        code, _, err = cli("verify", tmp_path / artefact, tmp_path / "foreign")
        assert (code, "were found in" in err) == (1, True)
    file = tmp_path / "baked" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.weight"][0, 0] += 1
    save_file(weights, file, {"format": "pt"})
    code, out, err = cli("verify", tmp_path / "baked", tmp_path / "base")
    assert (code, "with the 14 neurons off that it names" in err, "conv_in.weight" in out) == (
        1,
        True,
        True,
    )
    shutil.rmtree(tmp_path / "baked")
    bake(pipe, neurons, tmp_path / "baked")
    config = tmp_path / "baked" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 32}))
    (tmp_path / "baked" / "more.txt").write_text("x")
    code, out, _ = cli("verify", tmp_path / "baked", tmp_path / "base")
    assert (code, "unet/config.json" in out, "more.txt" in out) == (1, True, True)


def damaged(weights: dict[str, torch.Tensor], path: str, kind: str) -> dict[str, torch.Tensor]:
    """Weights of a baked model after something was done to them."""
    if kind == "other values":
        weights[f"{path}.weight"][1] = 123
    elif kind == "half of it":
        weights[f"{path}.weight"][3] = 1
    elif kind == "another type":
        weights["conv_in.weight"] = weights["conv_in.weight"].half()
    elif kind == "a single value":
        weights["a_scale"] += 1
    elif kind == "not a number":
        weights["conv_in.bias"][0] = float("nan")
    return weights


@pytest.mark.parametrize(
    "kind",
    [
        "other values",
        "half of it",
        "another type",
        "a single value",
        "not a number",
        "metadata",
        "nothing",
    ],
)
def test_changes_are_held_against_the_neuron_file(kind: str, tmp_path: Path) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    neurons = some_neurons(pipe)
    path = next(iter(neurons.neurons.layers))
    base = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(base), "a_scale": torch.tensor(1.0)}, base, {"format": "pt"})
    bake(pipe, neurons, tmp_path / "baked")
    file = tmp_path / "baked" / "unet" / "diffusion_pytorch_model.safetensors"
    more = {"more": "text"} if kind == "metadata" else {}
    save_file(damaged(load_file(file), path, kind), file, {"format": "pt", **more})
    found = [
        change
        for change in changes(tmp_path / "baked", tmp_path / "base", Model(pipe), neurons)
        if not change.asked
    ]
    assert len(found) == (kind != "nothing")


def test_an_unedited_folder_is_no_edit(tmp_path: Path) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    neurons = some_neurons(pipe)
    found = list(changes(tmp_path / "base", tmp_path / "base", Model(pipe), neurons))
    assert len(found) == len(neurons.neurons.layers)
    assert not any(change.asked or change.rows for change in found)


def test_differing_rows_are_told_bit_by_bit() -> None:
    one = torch.tensor([[1.0, float("nan")], [0.0, 2.0]])
    assert differing_rows(one, one.clone()) == []
    assert differing_rows(one, torch.tensor([[1.0, float("nan")], [-0.0, 2.0]])) == [1]
    assert differing_rows(torch.tensor(1), torch.tensor(2)) == [0]
    assert differing_rows(torch.empty(0, 3), torch.empty(0, 3)) == []


def test_a_neuron_file_names_the_revision(tmp_path: Path) -> None:
    make("Stable Diffusion").save_pretrained(tmp_path / "base", variant="fp16")
    pipe = load_pipeline(
        str(tmp_path / "base"), device="cpu", local_files_only=True, revision="v2", variant="fp16"
    )
    assert some_neurons(pipe).revision == "v2"
    assert Model(pipe).variant == "fp16"
    assert some_neurons(make("Stable Diffusion")).revision is None


def test_what_the_model_does_not_load_stays_behind(tmp_path: Path) -> None:
    """Other programs' copies of the weights would have the neurons on."""
    pipe = saved("Stable Diffusion", tmp_path / "base")
    (tmp_path / "base" / "comfy").mkdir()
    for name in ("model.gguf", "unet/weights.pb", "comfy/unet.safetensors", "unet/modeling.py"):
        (tmp_path / "base" / name).write_bytes(b"x")
    (tmp_path / "base" / "LICENSE").write_text("terms")
    bake(pipe, some_neurons(pipe), tmp_path / "baked")
    names = {
        str(path.relative_to(tmp_path / "baked"))
        for path in (tmp_path / "baked").rglob("*")
        if path.is_file()
    }
    assert not names & {
        "model.gguf",
        "unet/weights.pb",
        "comfy/unet.safetensors",
        "unet/modeling.py",
    }
    assert "LICENSE" in names
    (tmp_path / "baked" / "comfy").mkdir()
    for name in ("model.gguf", "comfy/unet.safetensors"):
        (tmp_path / "baked" / name).write_bytes(b"x")
    found = [
        change.file
        for change in changes(
            tmp_path / "baked", tmp_path / "base", Model(pipe), some_neurons(pipe)
        )
        if not change.asked
    ]
    assert found == ["comfy/unet.safetensors", "model.gguf"]


def test_what_the_hub_and_git_add_is_no_difference(tmp_path: Path) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    bake(pipe, some_neurons(pipe), tmp_path / "baked")
    for name in (
        ".gitattributes",
        ".git/HEAD",
        ".cache/huggingface/x.metadata",
        "LICENSE.md",
        "before.png",
    ):
        (tmp_path / "baked" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "baked" / name).write_text("x")
    (tmp_path / "base" / "LICENSE").write_text("terms")
    assert all(
        change.asked
        for change in changes(
            tmp_path / "baked", tmp_path / "base", Model(pipe), some_neurons(pipe)
        )
    )


def test_a_base_that_nobody_may_write(tmp_path: Path) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    for path in [*(tmp_path / "base").rglob("*"), tmp_path / "base"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    bake(pipe, some_neurons(pipe), tmp_path / "baked")
    assert all(path.stat().st_mode & 0o200 for path in (tmp_path / "baked").rglob("*"))


def test_a_checkpoint_inside_of_its_base(tmp_path: Path) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    for folder in (tmp_path / "base" / "edited", tmp_path / "base" / "unet" / "edited"):
        bake(pipe, some_neurons(pipe), folder)
        assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []
        assert not (folder / "unet" / "edited").exists() or folder.parent.name == "base"


def test_a_lora_of_the_text_encoder_counts_too(tmp_path: Path) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    neurons = some_neurons(pipe)
    pipe.text_encoder.base_layer = torch.nn.Identity()
    with pytest.raises(ExportError, match="a LoRA is loaded"):
        bake(pipe, neurons, tmp_path / "baked")
