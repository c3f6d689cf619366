import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from architectures import make
from artefacts import (  # noqa: F401 -- fixtures
    Saved,
    model_fixture,
    saved_model_fixture,
    some_neurons,
    uneven_neurons,
)
from unmemorize import (
    ExportError,
    GenerationSettings,
    Model,
    NeuronFile,
    Neurons,
    export_lora,
    generate,
    switched_off,
)
from unmemorize.export import LAYOUTS
from unmemorize.export._carried import carried_edit
from unmemorize.export._rows import read_header

pytest.importorskip("peft")

LOADABLE = (
    "Stable Diffusion",
    "Stable Diffusion 2",
    "Stable Diffusion XL",
    "DeepFloyd IF",
    "Stable Diffusion 3",
    "Flux",
)


def denoised(model: Model) -> torch.Tensor:
    """One call of the denoiser in its precision, which `Model.predict` rounds to float32."""
    outputs: list[torch.Tensor] = []
    handle = model.denoiser.register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output[0])
    )
    text = model.encode(["a prompt", "another"])
    model.predict(model.draw_latents(2, 0), model.timesteps(50)[1], text)
    handle.remove()
    assert outputs[0].dtype == model.dtype
    return outputs[0]


@pytest.mark.parametrize("name", LOADABLE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_strength_is_one_minus_scale(
    name: str, dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    model = Model(make(name).to(dtype))
    neurons = uneven_neurons(model, 0.0)
    export_lora(model, neurons, tmp_path)
    expected = {}
    for strength in (1.0, 0.25, 0.0):
        with switched_off(model, neurons.neurons, scale=1 - strength):
            expected[strength] = denoised(model)
    assert not torch.allclose(expected[1.0], expected[0.0], rtol=0, atol=10 * tolerance)
    model.pipe.load_lora_weights(tmp_path, adapter_name="unmemorize")
    for strength, output in expected.items():
        model.pipe.set_adapters(["unmemorize"], adapter_weights=[strength])
        assert float((denoised(model) - output).abs().max()) < tolerance
    model.pipe.unload_lora_weights()
    assert torch.equal(denoised(model), expected[0.0])


@pytest.mark.parametrize("scale", [0.5, -0.25])
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("Stable Diffusion", "diffusers"),
        ("Stable Diffusion", "kohya"),
        ("Stable Diffusion 2", "kohya"),
        ("Stable Diffusion XL", "kohya"),
        ("DeepFloyd IF", "diffusers"),
    ],
)
def test_the_scale_of_the_file_is_reached_at_strength_1(
    name: str, layout: str, scale: float, tmp_path: Path
) -> None:
    """At strength t, outputs are multiplied by 1 - t (1 - scale)."""
    model = Model(make(name).to(torch.float64))
    neurons = uneven_neurons(model, scale)
    file, *_ = export_lora(model, neurons, tmp_path, layout=layout)
    expected = {}
    for strength in (1.0, 0.5, -1.0):
        with switched_off(model, neurons.neurons, scale=1 - strength * (1 - scale)):
            expected[strength] = denoised(model)
    model.pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="it")
    for strength, output in expected.items():
        model.pipe.set_adapters(["it"], adapter_weights=[strength])
        assert float((denoised(model) - output).abs().max()) < 1e-9


def test_images_with_the_lora_are_those_with_the_neurons_off(tmp_path: Path) -> None:
    model = Model(make("Stable Diffusion").to(torch.float64))
    neurons = some_neurons(model)
    settings = GenerationSettings(images=2, steps=3, guidance=2.0)
    off = generate(model, "a prompt", neurons.neurons, settings=settings)
    before = generate(model, "a prompt", settings=settings)
    export_lora(model, neurons, tmp_path)
    model.pipe.load_lora_weights(tmp_path)
    with_lora = generate(model, "a prompt", settings=settings)
    for one, other, plain in zip(off, with_lora, before, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
        assert not np.array_equal(np.asarray(one), np.asarray(plain))


def test_the_kohya_layout_is_the_same_lora(tmp_path: Path) -> None:
    model = Model(make("Stable Diffusion").to(torch.float64))
    neurons = some_neurons(model)
    with switched_off(model, neurons.neurons):
        expected = denoised(model)
    export_lora(model, neurons, tmp_path, layout="kohya")
    model.pipe.load_lora_weights(tmp_path)  # the only file there
    assert float((denoised(model) - expected).abs().max()) < 1e-9


def test_tensors_are_named_as_other_programs_name_them(model: Model, tmp_path: Path) -> None:
    """Literal names and shapes: nothing of the package says what is right here."""
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    neurons = NeuronFile.of(model, Neurons({path: [1, 5]}), scale=0.5)
    weight = model.value_layers[path].weight.detach()
    width, inputs = weight.shape
    one_hot = torch.zeros(width, 2)
    one_hot[1, 0] = one_hot[5, 1] = 1
    file, *_ = export_lora(model, neurons, tmp_path / "diffusers")
    tensors = load_file(file)
    assert tensors.keys() == {f"unet.{path}.lora_A.weight", f"unet.{path}.lora_B.weight"}
    assert torch.equal(tensors[f"unet.{path}.lora_A.weight"], -0.5 * weight[[1, 5]])
    assert torch.equal(tensors[f"unet.{path}.lora_B.weight"], one_hot)
    assert json.loads(read_header(file).metadata["lora_adapter_metadata"]) == {
        "unet.r": 2,
        "unet.lora_alpha": 2,
        "unet.lora_bias": False,
        "unet.target_modules": [path],
    }
    file, *_ = export_lora(model, neurons, tmp_path / "kohya", layout="kohya")
    tensors = load_file(file)
    prefix = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v"
    assert tensors.keys() == {
        f"{prefix}.lora_down.weight",
        f"{prefix}.lora_up.weight",
        f"{prefix}.alpha",
    }
    assert tensors[f"{prefix}.lora_down.weight"].shape == (2, inputs)
    assert torch.equal(tensors[f"{prefix}.lora_up.weight"], one_hot)
    assert tensors[f"{prefix}.alpha"].item() == 2
    assert "lora_adapter_metadata" not in read_header(file).metadata


def test_layers_with_bias_have_one_in_the_lora(saved_model: Saved, tmp_path: Path) -> None:
    model = saved_model("DeepFloyd IF")
    file, *_ = export_lora(model, some_neurons(model, 0.5), tmp_path)
    tensors = load_file(file)
    for path, layer in model.value_layers.items():
        expected = torch.zeros(layer.out_features)
        expected[[1, 3]] = -0.5 * layer.bias.detach()[[1, 3]]
        assert torch.equal(tensors[f"unet.{path}.lora_B.bias"], expected)
    assert json.loads(read_header(file).metadata["lora_adapter_metadata"])["unet.lora_bias"]


def test_files_are_named_after_what_reads_them(model: Model, tmp_path: Path) -> None:
    files = export_lora(model, some_neurons(model), tmp_path)
    names = ["pytorch_lora_weights.safetensors", "base-unmemorized-kohya.safetensors"]
    assert [file.name for file in files] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize(
    ("model", "stem"), [("owner/a model", "a-model"), ("../", "model"), ("base", "base")]
)
def test_names_of_models_become_names_of_files(model: str, stem: str) -> None:
    names = {layout.file_name(model) for layout in LAYOUTS}
    assert names == {"pytorch_lora_weights.safetensors", f"{stem}-unmemorized-kohya.safetensors"}


@pytest.mark.parametrize("name", ["Stable Diffusion", "Stable Diffusion XL", "Flux"])
def test_diffusers_loads_its_own_file_from_a_folder_of_several(
    saved_model: Saved, name: str, tmp_path: Path
) -> None:
    model = Model(make(name).to(torch.float64))
    neurons = some_neurons(model)
    assert len(export_lora(model, neurons, tmp_path)) == 2
    with switched_off(model, neurons.neurons):
        expected = denoised(model)
    model.pipe.load_lora_weights(tmp_path)
    assert float((denoised(model) - expected).abs().max()) < 1e-9


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_one_layout_alone(model: Model, layout: str, tmp_path: Path) -> None:
    (file,) = export_lora(model, some_neurons(model), tmp_path, layout=layout)
    assert list(tmp_path.iterdir()) == [file]


def test_a_lora_carries_its_neurons(model: Model, tmp_path: Path) -> None:
    neurons = some_neurons(model, 0.5)
    file, *_ = export_lora(model, neurons, tmp_path)
    assert carried_edit(file) == neurons
    first = file.read_bytes()
    again, *_ = export_lora(model, carried_edit(file), tmp_path / "again")
    assert again.read_bytes() == first


def test_what_cannot_be_a_lora_is_refused(saved_model: Saved, model: Model, tmp_path: Path) -> None:
    pixart, with_bias = saved_model("PixArt"), saved_model("DeepFloyd IF")
    with pytest.raises(ExportError, match="diffusers loads no LoRA into it"):
        export_lora(pixart, some_neurons(pixart), tmp_path)
    with pytest.raises(ExportError, match="kohya layout has no place"):
        export_lora(with_bias, some_neurons(with_bias), tmp_path, layout="kohya")
    assert len(export_lora(with_bias, some_neurons(with_bias), tmp_path / "with bias")) == 1
    with pytest.raises(ExportError, match="no neurons"):
        export_lora(model, NeuronFile.of(model, Neurons()), tmp_path)
    with pytest.raises(ExportError, match=r"layout 'lycoris': unknown. Use one of diffusers"):
        export_lora(model, some_neurons(model), tmp_path, layout="lycoris")
    file, *_ = export_lora(model, some_neurons(model), tmp_path)
    save_file(load_file(file), tmp_path / "other.safetensors")
    with pytest.raises(ExportError, match="carries no neurons"):
        carried_edit(tmp_path / "other.safetensors")


def test_a_loaded_lora_is_another_model(tmp_path: Path) -> None:
    """Statistics and neurons of the plain model do not hold for it, but it has its own."""
    pipe = make("Stable Diffusion")
    plain = Model(pipe)
    fingerprint = plain.fingerprint
    export_lora(plain, some_neurons(plain), tmp_path)
    pipe.load_lora_weights(tmp_path)
    adapted = Model(pipe)
    assert adapted.fingerprint != fingerprint
    assert list(adapted.value_layers) == list(plain.value_layers)
    path = next(iter(adapted.value_layers))
    before = denoised(adapted)
    with switched_off(adapted, Neurons({path: [0]})):
        assert not torch.equal(denoised(adapted), before)
    assert torch.equal(denoised(adapted), before)
    pipe.unload_lora_weights()
    assert Model(pipe).fingerprint == fingerprint


def test_values_that_are_too_large_are_refused(tmp_path: Path) -> None:
    model = Model(make("Stable Diffusion").to(torch.float16))
    neurons = some_neurons(model)
    large = NeuronFile.of(model, neurons.neurons, scale=-900_000.0)
    with pytest.raises(ExportError, match=r"safetensors: .* is too large for F16\. .* in F32\."):
        export_lora(model, large, tmp_path)
    assert not any(tmp_path.iterdir())


def test_nothing_is_overwritten(model: Model, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ExportError, match=r"README.md: exists already"):
        export_lora(model, some_neurons(model), tmp_path, card="a card")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    files = export_lora(model, some_neurons(model), tmp_path)
    for file in files:
        with pytest.raises(ExportError, match=r"safetensors: exists already"):
            export_lora(model, some_neurons(model), tmp_path)
        file.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"
    export_lora(model, some_neurons(model), tmp_path / "carded", card="a card")
    assert (tmp_path / "carded" / "README.md").read_text() == "a card"
