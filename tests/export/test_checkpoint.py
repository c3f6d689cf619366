from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from architectures import ARCHITECTURES, make
from artefacts import (  # noqa: F401 -- fixtures
    Saved,
    model_fixture,
    own_model_fixture,
    prediction,
    saved_model_fixture,
    some_neurons,
)
from records import localization
from unmemorize import (
    CombinedEdit,
    EditFile,
    ExportError,
    Model,
    NeuronEdit,
    NeuronError,
    NeuronFile,
    Neurons,
    bake,
    export_lora,
    export_single_file,
    switched_off,
)
from unmemorize.export import model_card, verify
from unmemorize.generation import PrunedEdit
from unmemorize.methods import method_of
from unmemorize.pipelines import folder_of

DENOISER = Path("unet/diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_a_baked_model_is_the_switched_off_one(
    saved_model: Saved, name: str, scale: float, tmp_path: Path
) -> None:
    model = saved_model(name)
    neurons = some_neurons(model, scale)
    assert bake(model, neurons, tmp_path / "baked") == tmp_path / "baked"
    plain = type(model.pipe).from_pretrained(tmp_path / "baked", local_files_only=True)
    plain.set_progress_bar_config(disable=True)
    with switched_off(model, neurons.neurons, scale=scale):
        expected = prediction(model)
    if scale:
        torch.testing.assert_close(prediction(Model(plain)), expected)
    else:
        assert torch.equal(prediction(Model(plain)), expected)
    verification = verify(tmp_path / "baked", model)
    changes = verification.changes
    assert {
        change.key.removesuffix(".weight") for change in changes if change.key.endswith(".weight")
    } == set(neurons.neurons.layers)
    assert all(change.expected and change.rows == (1, 3) for change in changes)
    assert verification.passed
    assert NeuronFile.load(tmp_path / "baked" / "unmemorize_neurons.json") == neurons


def test_neurons_and_what_carries_them_can_be_exported(model: Model, tmp_path: Path) -> None:
    neurons = Neurons({next(iter(model.value_layers)): [1]})
    ways: list[tuple[Any, float]] = [
        (neurons, 0.0),
        (localization("a cat", "VM", 0.5, neurons), 0.0),
        (NeuronEdit(neurons, 0.5), 0.5),
    ]
    for number, (given, scale) in enumerate(ways):
        expected = NeuronFile.of(model, neurons, scale=scale)
        folder = bake(model, given, tmp_path / f"baked-{number}")
        assert NeuronFile.load(folder / "unmemorize_neurons.json") == expected
        lora, *_ = export_lora(model, given, tmp_path / f"lora-{number}")
        assert verify(lora, model).edit == expected
        assert model_card(model, given) == model_card(model, expected)


def test_an_edit_can_be_exported_without_a_file(model: Model, tmp_path: Path) -> None:
    key = next(iter(model.value_layers)).replace("to_v", "to_k")
    neurons = Neurons({next(iter(model.value_layers)): [3]})
    edit = CombinedEdit((PrunedEdit({key: (1, 5)}), NeuronEdit(neurons, 0.5)))
    expected = EditFile.of(model, edit)
    folder = bake(model, edit, tmp_path / "baked")
    assert verify(folder, model).edit == expected
    lora, *_ = export_lora(model, edit, tmp_path / "lora")
    assert verify(lora, model).edit == expected
    assert model_card(model, edit) == model_card(model, expected)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (None, r"None: there is no edit to export\. .*MitigationResult\.file"),
        ("neurons.json", "Give a NeuronFile, an EditFile such as"),
        ({"mid": [1]}, "Give a NeuronFile, an EditFile such as"),
        (method_of("random-tokens=2"), "acts on images while they are drawn, and no weights do"),
    ],
)
def test_what_is_no_edit_is_not_exported(
    model: Model, given: Any, problem: str, tmp_path: Path
) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: bake(model, given, tmp_path / "x"),
        lambda: export_lora(model, given, tmp_path / "x"),
        lambda: export_single_file(model, given, tmp_path / "base", tmp_path / "x"),
        lambda: model_card(model, given),
    ]
    for call in calls:
        with pytest.raises(ExportError, match=problem):
            call()
    assert not (tmp_path / "x").exists()


def test_rows_are_scaled_once_and_in_their_own_layer(model: Model, tmp_path: Path) -> None:
    """With other neurons in each layer, and a scale that shows when it is applied twice."""
    paths = list(model.value_layers)
    layers = {path: [number] for number, path in enumerate(paths)}
    bake(model, NeuronFile.of(model, Neurons(layers), scale=0.5), tmp_path / "baked")
    before, after = model.denoiser.state_dict(), load_file(tmp_path / "baked" / DENOISER)
    assert before.keys() == after.keys()
    for key, value in before.items():
        expected = value.clone()
        if (path := key.removesuffix(".weight")) in layers:
            expected[layers[path]] *= 0.5
        assert torch.equal(after[key], expected)
        assert after[key].dtype == value.dtype


def test_biases_are_scaled_with_their_rows(saved_model: Saved, tmp_path: Path) -> None:
    model = saved_model("DeepFloyd IF")
    bake(model, some_neurons(model, 0.5), tmp_path / "baked")
    after = load_file(tmp_path / "baked" / DENOISER)
    for path, layer in model.value_layers.items():
        expected = layer.bias.detach().clone()
        assert expected.any()
        expected[[1, 3]] *= 0.5
        assert torch.equal(after[f"{path}.bias"], expected)


def test_only_the_bytes_of_the_rows_change(tmp_path: Path) -> None:
    make("PixArt").save_pretrained(tmp_path / "base", variant="fp16")
    model = Model.load(str(tmp_path / "base"), device="cpu", variant="fp16", local_files_only=True)
    neurons = some_neurons(model)
    bake(model, neurons, tmp_path / "baked")
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
    bake(model, neurons, tmp_path / "again")
    assert (tmp_path / "again" / name).read_bytes() == new


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_precision_of_the_base_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    """Whatever type the model is loaded in."""
    make("Stable Diffusion").to(dtype).save_pretrained(tmp_path / "base")
    model = Model.load(str(tmp_path / "base"), device="cpu", local_files_only=True)
    assert model.dtype == torch.float32
    bake(model, some_neurons(model, 0.5), tmp_path / "baked")
    after = load_file(tmp_path / "baked" / DENOISER)
    assert {value.dtype for value in after.values()} == {dtype}
    assert verify(tmp_path / "baked", model).passed


def test_pickles_stay_behind(own_model: Model, tmp_path: Path) -> None:
    (tmp_path / "base" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"code")
    bake(own_model, some_neurons(own_model), tmp_path / "baked")
    assert not list((tmp_path / "baked").rglob("*.bin"))
    assert verify(tmp_path / "baked", own_model).passed


def test_the_whole_model_in_one_file_stays_behind(own_model: Model, tmp_path: Path) -> None:
    """Repositories keep one next to the component folders; it would have the neurons on."""
    save_file({"a": torch.ones(2)}, tmp_path / "base" / "v1-5-pruned.safetensors")
    bake(own_model, some_neurons(own_model), tmp_path / "baked")
    assert not list((tmp_path / "baked").glob("*.safetensors"))
    assert verify(tmp_path / "baked", own_model).passed


def test_what_the_model_does_not_load_stays_behind(own_model: Model, tmp_path: Path) -> None:
    """Other programs' copies of the weights would have the neurons on."""
    stray = ("model.gguf", "unet/weights.pb", "comfy/unet.safetensors", "unet/modeling.py")
    (tmp_path / "base" / "comfy").mkdir()
    for name in stray:
        (tmp_path / "base" / name).write_bytes(b"x")
    (tmp_path / "base" / "LICENSE").write_text("terms")
    bake(own_model, some_neurons(own_model), tmp_path / "baked")
    names = {
        str(path.relative_to(tmp_path / "baked"))
        for path in (tmp_path / "baked").rglob("*")
        if path.is_file()
    }
    assert not names & set(stray)
    assert "LICENSE" in names


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE.md", "LICENSE-MODEL", "LICENSES.txt"])
def test_terms_of_the_model_come_along_and_are_no_difference(
    own_model: Model, tmp_path: Path, name: str
) -> None:
    (tmp_path / "base" / name).write_text("terms")
    baked = bake(own_model, some_neurons(own_model), tmp_path / "baked")
    assert (baked / name).read_text() == "terms"
    assert verify(baked, own_model).passed


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["rewrite_rows", "shutil.copyfile"])
def test_nothing_half_edited_is_left(
    model: Model,
    problem: BaseException,
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(f"unmemorize.export._checkpoint.{where}", fail)
    expected = ExportError if isinstance(problem, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        bake(model, some_neurons(model), tmp_path / "baked")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_weights_is_refused(own_model: Model, tmp_path: Path) -> None:
    """The folder may hold another revision by now, or the denoiser may have been exchanged."""
    make("Stable Diffusion", seed=1).save_pretrained(tmp_path / "base")
    with pytest.raises(ExportError, match="is not what the loaded model has there"):
        bake(own_model, some_neurons(own_model), tmp_path / "baked")
    assert not (tmp_path / "baked").exists()


def test_weights_that_are_slightly_off_are_refused(own_model: Model, tmp_path: Path) -> None:
    weights = load_file(tmp_path / "base" / DENOISER)
    path = next(iter(own_model.value_layers))
    weights[f"{path}.weight"] *= 1.004
    save_file(weights, tmp_path / "base" / DENOISER, {"format": "pt"})
    with pytest.raises(ExportError, match="is not what the loaded model has there"):
        bake(own_model, some_neurons(own_model), tmp_path / "baked")


def test_a_live_pipeline_is_exported_from_its_folder(own_model: Model, tmp_path: Path) -> None:
    """A pipeline that was not loaded by `Model.load` names the folder itself."""
    pipe = type(own_model.pipe).from_pretrained(tmp_path / "base", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    assert Model(pipe).loading is None
    assert folder_of(Model(pipe)) == tmp_path / "base"
    bake(pipe, some_neurons(own_model), tmp_path / "baked")
    assert verify(tmp_path / "baked", pipe).passed


def test_the_folder_is_that_of_the_loaded_revision(own_model: Model, tmp_path: Path) -> None:
    """A pipeline from the Hub names its id; its denoiser knows the folder in the cache."""
    (tmp_path / "base").rename(tmp_path / "abc")
    pipe = own_model.pipe
    pipe.register_to_config(_name_or_path="someone/model")
    pipe.unet.register_to_config(_name_or_path=str(tmp_path / "abc" / "unet"))
    assert folder_of(own_model) == tmp_path / "abc"
    pipe.unet.register_to_config(_name_or_path=str(tmp_path / "elsewhere" / "unet"))
    with pytest.raises(ExportError, match="someone/model: it has no files on this machine"):
        folder_of(own_model)


def test_a_model_with_its_lora_loaded_is_another_one(own_model: Model, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    export_lora(own_model, some_neurons(own_model), tmp_path / "lora")
    own_model.pipe.load_lora_weights(tmp_path / "lora")
    with pytest.raises(NeuronError, match="were found in"):
        verify(tmp_path / "lora", Model(own_model.pipe))


def test_an_adapter_of_the_text_encoder_counts_too(own_model: Model, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj"], use_dora=True)
    own_model.pipe.text_encoder.add_adapter(config)
    with pytest.raises(ExportError, match=r"an adapter is loaded \(.*Dora.*no plain LoRA"):
        bake(own_model, some_neurons(own_model), tmp_path / "baked")


def test_baking_refuses(saved_model: Saved, own_model: Model, tmp_path: Path) -> None:
    neurons = some_neurons(own_model)
    with pytest.raises(ExportError, match="exists already"):
        bake(own_model, neurons, tmp_path)
    with pytest.raises(NeuronError, match="were found in"):
        bake(saved_model("Stable Diffusion XL"), neurons, tmp_path / "baked")
    with pytest.raises(ExportError, match="has no files on this machine"):
        bake(make("Stable Diffusion"), neurons, tmp_path / "baked")
    flux = saved_model("Flux")
    shared = NeuronFile.of(flux, Neurons({"single_transformer_blocks.0.attn.to_v": [1]}))
    with pytest.raises(ExportError, match="projects text and image together"):
        bake(flux, shared, tmp_path / "baked")
    for file in (tmp_path / "base" / "unet").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ExportError, match="unet has no safetensors file of its weights"):
        bake(own_model, neurons, tmp_path / "baked")


def test_a_layer_that_no_file_holds_is_refused(
    own_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names in the files may be older ones, which diffusers translates as it loads them."""
    monkeypatch.setattr("unmemorize.export._checkpoint.refuse_other_components", lambda *_: None)
    weights = load_file(tmp_path / "base" / DENOISER)
    path = next(iter(own_model.value_layers))
    weights["old name"] = weights.pop(f"{path}.weight")
    save_file(weights, tmp_path / "base" / DENOISER, {"format": "pt"})
    with pytest.raises(ExportError, match=f"{path}.weight: no safetensors file of the model"):
        bake(own_model, some_neurons(own_model), tmp_path / "baked")


def test_a_neuron_file_names_the_revision(tmp_path: Path) -> None:
    make("Stable Diffusion").save_pretrained(tmp_path / "base", variant="fp16")
    model = Model.load(
        str(tmp_path / "base"), device="cpu", local_files_only=True, revision="v2", variant="fp16"
    )
    assert some_neurons(model).revision == "v2"
    assert model.variant == "fp16"
    assert some_neurons(Model(make("Stable Diffusion"))).revision is None


def test_a_base_that_nobody_may_write(own_model: Model, tmp_path: Path) -> None:
    for path in [*(tmp_path / "base").rglob("*"), tmp_path / "base"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    bake(own_model, some_neurons(own_model), tmp_path / "baked")
    assert all(path.stat().st_mode & 0o200 for path in (tmp_path / "baked").rglob("*"))


def test_a_checkpoint_inside_of_its_base(own_model: Model, tmp_path: Path) -> None:
    for folder in (tmp_path / "base" / "edited", tmp_path / "base" / "unet" / "edited"):
        bake(own_model, some_neurons(own_model), folder)
        assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []
        assert not (folder / "unet" / "edited").exists() or folder.parent.name == "base"


def test_the_card_of_the_base_goes_along(own_model: Model, tmp_path: Path) -> None:
    (tmp_path / "base" / "README.md").write_text("the base's ä", encoding="utf-8")
    bake(own_model, some_neurons(own_model), tmp_path / "baked")
    assert (tmp_path / "baked" / "README.md").read_text(encoding="utf-8") == "the base's ä"
    bake(own_model, some_neurons(own_model), tmp_path / "carded", card="a card ä")
    assert (tmp_path / "carded" / "README.md").read_text(encoding="utf-8") == "a card ä"
