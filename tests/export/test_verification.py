"""`verify` on everything that is exported, whole, damaged and wrong."""

import json
import shutil
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
    saved,
    saved_model_fixture,
    some_neurons,
    uneven_neurons,
)
from unmemorize import (
    ExportError,
    Model,
    NeuronError,
    NeuronFile,
    Neurons,
    bake,
    export_lora,
    export_single_file,
)
from unmemorize.export import verify
from unmemorize.export._carried import as_metadata

Cli = Callable[..., tuple[int, str, str]]
Tensors = dict[str, torch.Tensor]
UNET = Path("unet/diffusion_pytorch_model.safetensors")


def edited(file: Path, edit: Callable[[Tensors, dict[str, str]], object]) -> None:
    """Change tensors and metadata of a safetensors file."""
    with safe_open(file, "pt") as handle:
        metadata = dict(handle.metadata() or {})
    tensors = load_file(file)
    edit(tensors, metadata)
    save_file(tensors, file, metadata)


def unet_file(model: Model, file: Path) -> Path:
    """The weights of the U-Net in one file, under names that say nothing."""
    named = enumerate(model.denoiser.state_dict().values())
    save_file({f"model.{index}": value.clone() for index, value in named}, file, {"format": "pt"})
    return file


# Neuron files


def test_a_neuron_file(model: Model, tmp_path: Path) -> None:
    neurons = some_neurons(model, 0.5)
    neurons.save(tmp_path / "n.json")
    verification = verify(tmp_path / "n.json", model)
    assert (verification.kind, verification.edit) == ("neuron file", neurons)
    assert (verification.passed, verification.changes) == (True, ())
    assert verification.base == model.name
    foreign = Model(make("Stable Diffusion", seed=1))
    with pytest.raises(NeuronError, match="were found in"):
        verify(tmp_path / "n.json", foreign)
    with pytest.raises(NeuronError, match="cannot be read"):
        verify(tmp_path / "missing.json", model)


def test_neurons_that_no_weights_can_switch_off(saved_model: Saved, tmp_path: Path) -> None:
    """Flux has layers that project text and image together: a neuron file may name them."""
    flux = saved_model("Flux")
    shared = Neurons({"single_transformer_blocks.0.attn.to_v": [1]})
    neurons = NeuronFile.of(flux, shared)
    neurons.save(tmp_path / "n.json")
    assert verify(tmp_path / "n.json", flux).passed
    baked = bake(flux, some_neurons(flux), tmp_path / "baked")
    neurons.save(baked / "unmemorize_neurons.json")
    with pytest.raises(ExportError, match="baked: single_transformer_blocks"):
        verify(baked, flux)


# Checkpoints


def damage_checkpoint(tensors: Tensors, metadata: dict[str, str], path: str, kind: str) -> None:
    weight, other = f"{path}.weight", "conv_in.weight"
    if kind == "other values":
        tensors[weight][1] = 123
    elif kind == "half of it":
        tensors[weight][3] = 1
    elif kind == "scaled twice":
        tensors[weight][1] *= 0.5
    elif kind == "another scale":
        tensors[weight][1] *= 1.01
    elif kind == "one row more":
        tensors[weight][2] *= 0.5
    elif kind == "another layer":
        tensors[other][0, 0] += 1
    elif kind == "another type":
        tensors[other] = tensors[other].half()
    elif kind == "another shape":
        tensors[other] = tensors[other].flatten()
    elif kind == "a single value":
        tensors["a_scale"] += 1
    elif kind == "not a number":
        tensors["conv_in.bias"][0] = float("nan")
    elif kind == "a tensor less":
        del tensors[other]
    elif kind == "a tensor more":
        tensors["more"] = torch.ones(1)
    elif kind == "metadata":
        metadata["more"] = "text"


@pytest.fixture(scope="module")
def checkpoint(saved_model: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base that holds a single value, too, and the base at half strength."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = saved("Stable Diffusion", folder / "base")
    file = folder / "base" / UNET
    edited(file, lambda tensors, _: tensors.update(a_scale=torch.tensor(1.0)))
    bake(model, some_neurons(model, 0.5), folder / "baked")
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        "other values",
        "half of it",
        "scaled twice",
        "another scale",
        "one row more",
        "another layer",
        "another type",
        "another shape",
        "a single value",
        "not a number",
        "a tensor less",
        "a tensor more",
        "metadata",
        "nothing",
    ],
)
def test_a_checkpoint_is_held_against_its_neurons(
    kind: str, model: Model, checkpoint: Path, tmp_path: Path
) -> None:
    path = list(model.value_layers)[2]
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    live = Model.load(str(tmp_path / "base"), device="cpu", local_files_only=True)
    edited(
        tmp_path / "baked" / UNET,
        lambda tensors, metadata: damage_checkpoint(tensors, metadata, path, kind),
    )
    verification = verify(tmp_path / "baked", live)
    assert verification.kind == "checkpoint"
    assert verification.files == (tmp_path / "baked",)
    assert len(verification.unexpected) == (kind != "nothing")
    assert verification.passed == (kind == "nothing")
    assert all(change.file == str(UNET) for change in verification.unexpected)


def test_the_scale_of_the_neuron_file_counts(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    live = Model.load(str(tmp_path / "base"), device="cpu", local_files_only=True)
    some_neurons(live, 0.25).save(tmp_path / "baked" / "unmemorize_neurons.json")
    verification = verify(tmp_path / "baked", live)
    assert len(verification.unexpected) == len(live.value_layers)


def test_an_unedited_folder_is_no_edit(own_model: Model, tmp_path: Path) -> None:
    neurons = some_neurons(own_model)
    neurons.save(tmp_path / "base" / "unmemorize_neurons.json")
    verification = verify(tmp_path / "base", own_model)
    assert len(verification.changes) == len(neurons.neurons.layers)
    assert not any(change.expected or change.rows for change in verification.changes)
    assert not verification.passed


def test_other_files_of_a_checkpoint_count(model: Model, tmp_path: Path) -> None:
    baked = bake(model, some_neurons(model), tmp_path / "baked")
    config = baked / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 32}))
    (baked / "comfy").mkdir()
    for name in ("model.gguf", "comfy/unet.safetensors"):
        (baked / name).write_bytes(b"x")
    (baked / "vae" / "config.json").unlink()
    edited(
        baked / "text_encoder" / "model.safetensors",
        lambda tensors, _: next(iter(tensors.values())).mul_(2),
    )
    files = [change.file for change in verify(baked, model).unexpected]
    assert files == [
        "comfy/unet.safetensors",
        "model.gguf",
        "text_encoder/model.safetensors",
        "unet/config.json",
        "vae/config.json",
    ]


def test_what_the_hub_and_git_add_is_no_difference(own_model: Model, tmp_path: Path) -> None:
    baked = bake(own_model, some_neurons(own_model), tmp_path / "baked")
    names = (".gitattributes", ".git/HEAD", ".cache/huggingface/x.metadata", "LICENSE.md", "a.png")
    for name in names:
        (baked / name).parent.mkdir(parents=True, exist_ok=True)
        (baked / name).write_text("x")
    (tmp_path / "base" / "LICENSE").write_text("terms")
    assert verify(baked, own_model).passed


def test_a_checkpoint_without_its_neurons(model: Model, tmp_path: Path) -> None:
    baked = bake(model, some_neurons(model), tmp_path / "baked")
    (baked / "unmemorize_neurons.json").unlink()
    with pytest.raises(NeuronError, match=r"unmemorize_neurons.json"):
        verify(baked, model)


# LoRA


def scaled(tensors: Tensors, factor: float, *endings: str) -> list[torch.Tensor]:
    return [value.mul_(factor) for key, value in tensors.items() if key.endswith(endings)]


def first(tensors: Tensors, *endings: str) -> str:
    return next(key for key in sorted(tensors) if key.endswith(endings))


def with_another_row(up: torch.Tensor) -> None:
    """Let B change a row that it leaves alone."""
    up[int((up == 0).all(1).nonzero()[-1]), 0] = 1


def without_layer(tensors: Tensors) -> None:
    layer = first(tensors, *UP).rpartition(".lora_")[0]
    for key in [key for key in tensors if key.startswith(layer + ".")]:
        del tensors[key]


UP, DOWN = (".lora_B.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_down.weight")
DAMAGES: dict[str, Callable[[Tensors], object]] = {
    "one value of A": lambda tensors: tensors[first(tensors, *DOWN)][0, 0].add_(0.5),
    "one value of B": lambda tensors: tensors[first(tensors, *UP)][0].add_(0.5),
    "another scale": lambda tensors: scaled(tensors, 1.01, *DOWN),
    "fully off": lambda tensors: scaled(tensors, 2.0, *DOWN),
    "rows swapped": lambda tensors: tensors.update(
        {first(tensors, *UP): tensors[first(tensors, *UP)].flip(1).contiguous()}
    ),
    "rows moved": lambda tensors: tensors.update(
        {first(tensors, *UP): tensors[first(tensors, *UP)].roll(1, 0).contiguous()}
    ),
    "a row more": lambda tensors: with_another_row(tensors[first(tensors, *UP)]),
    "all of a layer less": without_layer,
    "transposed": lambda tensors: tensors.update(
        {key: value.T.contiguous() for key, value in tensors.items() if value.ndim == 2}
    ),
    "a layer less": lambda tensors: tensors.pop(first(tensors, *UP)),
    "a tensor more": lambda tensors: tensors.update(more=torch.ones(1)),
}


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("kind", ["nothing", *DAMAGES])
def test_a_lora_is_held_against_its_neurons(
    kind: str, layout: str, model: Model, tmp_path: Path
) -> None:
    neurons = uneven_neurons(model, 0.5)
    file, *_ = export_lora(model, neurons, tmp_path, layout=layout)
    if kind != "nothing":
        edited(file, lambda tensors, _: DAMAGES[kind](tensors))
    verification = verify(file, model)
    assert (verification.kind, verification.edit) == ("LoRA", neurons)
    assert verification.files == (file,)
    assert verification.passed == (kind == "nothing")
    if kind == "nothing":
        assert {change.key: change.rows for change in verification.changes} == dict(
            neurons.neurons.layers
        )


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_the_scale_comes_from_the_neurons_not_from_the_lora(
    layout: str, model: Model, tmp_path: Path
) -> None:
    """A LoRA that switches off for good is not one that halves."""
    file, *_ = export_lora(model, some_neurons(model, 0.0), tmp_path, layout=layout)
    edited(file, lambda _, metadata: metadata.update(as_metadata(some_neurons(model, 0.5))))
    verification = verify(file, model)
    assert len(verification.unexpected) == len(model.value_layers)


def test_alpha_over_rank_counts(model: Model, tmp_path: Path) -> None:
    file, *_ = export_lora(model, some_neurons(model, 0.5), tmp_path / "kohya", layout="kohya")
    edited(file, lambda tensors, _: tensors[first(tensors, ".alpha")].mul_(0.5))
    assert len(verify(file, model).unexpected) == 1
    edited(file, lambda tensors, _: tensors.update({first(tensors, ".alpha"): torch.ones(2)}))
    assert len(verify(file, model).unexpected) == 1
    edited(file, lambda tensors, _: tensors.pop(first(tensors, ".alpha")))
    assert verify(file, model).passed  # programs take alpha = rank then
    file, *_ = export_lora(model, some_neurons(model, 0.5), tmp_path / "diffusers")

    def doubled(_: Tensors, metadata: dict[str, str]) -> None:
        settings = json.loads(metadata["lora_adapter_metadata"])
        settings["unet.lora_alpha"] *= 2
        metadata["lora_adapter_metadata"] = json.dumps(settings)

    edited(file, doubled)
    assert len(verify(file, model).unexpected) == len(model.value_layers)


@pytest.mark.parametrize(
    ("setting", "value", "count"),
    [("r", 3, 7), ("target_modules", ["conv_in"], 1), ("lora_bias", True, 1)],
)
def test_settings_of_the_adapter_count(
    setting: str, value: Any, count: int, model: Model, tmp_path: Path
) -> None:
    file, *_ = export_lora(model, some_neurons(model), tmp_path)

    def change(_: Tensors, metadata: dict[str, str]) -> None:
        settings = json.loads(metadata["lora_adapter_metadata"])
        metadata["lora_adapter_metadata"] = json.dumps({**settings, f"unet.{setting}": value})

    edited(file, change)
    assert len(verify(file, model).unexpected) == count


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"unet.use_rslora": true}', 'has the setting "use_rslora"'),
        ('{"unet.r": "two"}', "settings of its adapter are damaged"),
        ("[", "settings of its adapter are damaged"),
    ],
)
def test_unknown_settings_of_the_adapter_are_refused(
    settings: str, message: str, model: Model, tmp_path: Path
) -> None:
    file, *_ = export_lora(model, some_neurons(model), tmp_path)
    edited(file, lambda _, metadata: metadata.update(lora_adapter_metadata=settings))
    with pytest.raises(ExportError, match=message):
        verify(file, model)


def test_a_lora_without_settings_has_alpha_equal_to_rank(model: Model, tmp_path: Path) -> None:
    file, *_ = export_lora(model, some_neurons(model), tmp_path)
    edited(file, lambda _, metadata: metadata.pop("lora_adapter_metadata"))
    assert verify(file, model).passed


def test_biases_of_a_lora_count(saved_model: Saved, model: Model, tmp_path: Path) -> None:
    with_bias = saved_model("DeepFloyd IF")
    file, *_ = export_lora(with_bias, some_neurons(with_bias, 0.5), tmp_path / "bias")
    assert verify(file, with_bias).passed
    original = file.read_bytes()
    edited(file, lambda tensors, _: tensors[first(tensors, ".lora_B.bias")].mul_(2))
    assert len(verify(file, with_bias).unexpected) == 1
    file.write_bytes(original)
    edited(file, lambda tensors, _: tensors.pop(first(tensors, ".lora_B.bias")))
    assert len(verify(file, with_bias).unexpected) == 1
    file.write_bytes(original)
    ones = torch.ones(1)
    edited(file, lambda tensors, _: tensors.update({first(tensors, ".lora_B.bias"): ones}))
    assert len(verify(file, with_bias).unexpected) == 1
    file, *_ = export_lora(model, some_neurons(model), tmp_path / "plain")
    edited(
        file,
        lambda tensors, _: tensors.update(
            {
                key.replace(".weight", ".bias"): torch.ones(len(value))
                for key, value in tensors.items()
                if ".lora_B" in key
            }
        ),
    )
    assert len(verify(file, model).unexpected) == 1 + len(model.value_layers)


@pytest.mark.parametrize("name", ["Stable Diffusion XL", "Stable Diffusion 3", "Flux"])
def test_a_lora_of_each_kind_of_model(saved_model: Saved, name: str, tmp_path: Path) -> None:
    model = saved_model(name)
    export_lora(model, uneven_neurons(model, -0.5), tmp_path)
    assert verify(tmp_path, model).passed


def test_half_precision_of_the_same_model_passes(tmp_path: Path) -> None:
    pipe = make("Stable Diffusion")
    file, *_ = export_lora(pipe, some_neurons(Model(pipe), 0.5), tmp_path)
    half = Model(pipe.to(torch.float16))
    assert verify(file, half).passed
    edited(file, lambda tensors, _: scaled(tensors, 1.01, ".lora_A.weight"))
    assert not verify(file, half).passed


def test_the_folder_of_a_lora(model: Model, tmp_path: Path) -> None:
    """With its card, and both layouts in one folder."""
    neurons = some_neurons(model, 0.5)
    (one,) = export_lora(model, neurons, tmp_path, layout="diffusers", card="a card")
    assert verify(tmp_path, model).files == (one,)
    (other,) = export_lora(model, neurons, tmp_path, layout="kohya")
    verification = verify(tmp_path, model)
    assert verification.passed
    assert verification.files == (other, one)
    edited(other, lambda tensors, _: scaled(tensors, 2.0, ".lora_down.weight"))
    assert {change.file for change in verify(tmp_path, model).unexpected} == {other.name}
    edited(other, lambda _, metadata: metadata.update(as_metadata(some_neurons(model))))
    with pytest.raises(ExportError, match="its edit is not that of"):
        verify(tmp_path, model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match="neither a model"):
        verify(tmp_path / "empty", model)


# Single files


def test_a_single_file(model: Model, tmp_path: Path) -> None:
    neurons = uneven_neurons(model, 0.5)
    base = unet_file(model, tmp_path / "one.safetensors")
    output = export_single_file(model, neurons, base, tmp_path / "edited.safetensors")
    verification = verify(output, model, base_file=base)
    assert (verification.kind, verification.edit) == ("single file", neurons)
    assert verification.passed
    rows = [change.rows for change in verification.changes]
    assert sorted(rows) == sorted(neurons.neurons.layers.values())
    with pytest.raises(ExportError, match="compared with the file it was made from"):
        verify(output, model)
    with pytest.raises(ExportError, match="carries no neurons"):
        verify(base, model, base_file=base)
    edited(output, lambda tensors, _: tensors["model.0"].add_(1))
    unexpected = verify(output, model, base_file=base).unexpected
    assert [(change.file, change.key) for change in unexpected] == [(output.name, "model.0")]


def test_a_single_file_in_which_a_layer_was_not_edited(model: Model, tmp_path: Path) -> None:
    base = unet_file(model, tmp_path / "one.safetensors")
    neurons = some_neurons(model, 0.5)
    output = export_single_file(model, neurons, base, tmp_path / "edited.safetensors")
    changed = verify(output, model, base_file=base).changes[0].key
    original = load_file(base)[changed]
    edited(output, lambda tensors, _: tensors.update({changed: original}))
    (unexpected,) = verify(output, model, base_file=base).unexpected
    assert (unexpected.key, unexpected.rows) == (changed, ())


def test_a_base_file_is_for_single_files(model: Model, tmp_path: Path) -> None:
    file, *_ = export_lora(model, some_neurons(model), tmp_path)
    with pytest.raises(ExportError, match=r"a LoRA, not a single file. Leave the base file out"):
        verify(file, model, base_file=file)


# The command


def test_verify_tells_an_edit_from_anything_else(cli: Cli, model: Model, tmp_path: Path) -> None:
    assert model.loading is not None
    base = model.loading.model
    neurons = some_neurons(model)
    neurons.save(tmp_path / "n.json")
    options = ("--model", base, "--device", "cpu")
    code, out, _ = cli(
        "export", "checkpoint", tmp_path / "n.json", *options, "-o", tmp_path / "baked"
    )
    assert (code, "14 value neurons switched off" in out) == (0, True)
    card = (tmp_path / "baked" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "it is no proof of erasure" in " ".join(card.split())
    code, out, _ = cli("verify", tmp_path / "baked", base)
    assert (
        code,
        "14 value neurons switched off: changed as it should be, and nothing else" in out,
    ) == (0, True)
    code, out, _ = cli("verify", tmp_path / "n.json", base)
    assert (code, "whose fingerprint fits" in out) == (0, True)
    make("Stable Diffusion", seed=1).save_pretrained(tmp_path / "foreign")
    for artefact in ("baked", "n.json"):
        code, _, err = cli("verify", tmp_path / artefact, tmp_path / "foreign")
        assert (code, "were found in" in err) == (1, True)
    edited(tmp_path / "baked" / UNET, lambda tensors, _: tensors["conv_in.weight"][0, 0].add_(1))
    (tmp_path / "baked" / "more.txt").write_text("x")
    code, out, err = cli("verify", tmp_path / "baked", base)
    assert (code, "with 14 value neurons switched off and nothing else" in err) == (1, True)
    assert "conv_in.weight" in out
    assert "more.txt" in out


def test_everything_that_is_exported_on_the_command_line(
    cli: Cli, model: Model, tmp_path: Path
) -> None:
    assert model.loading is not None
    base = model.loading.model
    some_neurons(model).save(tmp_path / "n.json")
    options = ("--model", base, "--device", "cpu")
    code, out, _ = cli("export", "lora", tmp_path / "n.json", *options, "-o", tmp_path / "lora")
    assert (code, "14 value neurons switched off at strength 1" in out) == (0, True)
    assert "- lora\n" in (tmp_path / "lora" / "README.md").read_text()
    for artefact in (
        tmp_path / "lora",
        tmp_path / "lora" / "pytorch_lora_weights.safetensors",
        tmp_path / "lora" / "base-unmemorized-kohya.safetensors",
    ):
        assert cli("verify", artefact, base)[0] == 0
    make("Stable Diffusion", seed=1).save_pretrained(tmp_path / "foreign")
    code, _, err = cli("verify", tmp_path / "lora", tmp_path / "foreign")
    assert (code, "were found in" in err) == (1, True)
    one, output = Path(base) / UNET, tmp_path / "edited.safetensors"
    code, _, _ = cli("export", "single-file", tmp_path / "n.json", one, *options, "-o", output)
    assert code == 0
    assert cli("verify", output, base, "--base-file", one)[0] == 0
