from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_checkpoint import saved, some_neurons

from architectures import make
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
from unmemorize.export import verify_lora
from unmemorize.export._lora import read_lora

pytest.importorskip("peft")

LOADABLE = (
    "Stable Diffusion",
    "Stable Diffusion 2",
    "Stable Diffusion XL",
    "DeepFloyd IF",
    "Stable Diffusion 3",
    "Flux",
)


def denoised(pipe: Any, dtype: torch.dtype) -> torch.Tensor:
    """One call of the denoiser in this precision, not rounded to float32 as `Model.predict` is."""
    model = Model(pipe)
    kept: list[torch.Tensor] = []
    handle = model.denoiser.register_forward_hook(
        lambda _module, _inputs, output: kept.append(output[0])
    )
    model.predict(
        model.draw_latents(2, 0), model.timesteps(50)[1], model.encode(["a prompt", "another"])
    )
    handle.remove()
    assert kept[0].dtype == dtype
    return kept[0]


@pytest.mark.parametrize("name", LOADABLE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_strength_is_one_minus_scale(
    name: str, dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    pipe = make(name).to(dtype)
    layers = [path for path in Model(pipe).value_layers if not path.startswith("single")]
    neurons = NeuronFile.of(
        Model(pipe), Neurons({path: range(place % 3 + 1) for place, path in enumerate(layers)})
    )
    export_lora(pipe, neurons, tmp_path)
    expected = {}
    for strength in (1.0, 0.25, 0.0):
        with switched_off(pipe, neurons.neurons, scale=1 - strength):
            expected[strength] = denoised(pipe, dtype)
    assert not torch.allclose(expected[1.0], expected[0.0], rtol=0, atol=10 * tolerance)
    pipe.load_lora_weights(tmp_path, adapter_name="unmemorize")
    for strength, output in expected.items():
        pipe.set_adapters(["unmemorize"], adapter_weights=[strength])
        assert float((denoised(pipe, dtype) - output).abs().max()) < tolerance
    pipe.unload_lora_weights()
    assert torch.equal(denoised(pipe, dtype), expected[0.0])


def test_images_with_the_lora_are_those_with_the_neurons_off(tmp_path: Path) -> None:
    pipe = make("Stable Diffusion").to(torch.float64)
    neurons = some_neurons(pipe)
    settings = GenerationSettings(images=2, steps=3, guidance=2.0)
    off = generate(pipe, "a prompt", neurons.neurons, settings=settings)
    before = generate(pipe, "a prompt", settings=settings)
    export_lora(pipe, neurons, tmp_path)
    pipe.load_lora_weights(tmp_path)
    with_lora = generate(pipe, "a prompt", settings=settings)
    for one, other, plain in zip(off, with_lora, before, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
        assert not np.array_equal(np.asarray(one), np.asarray(plain))


def test_the_kohya_layout_is_the_same_lora(tmp_path: Path) -> None:
    pipe = make("Stable Diffusion").to(torch.float64)
    neurons = some_neurons(pipe)
    with switched_off(pipe, neurons.neurons):
        expected = denoised(pipe, torch.float64)
    export_lora(pipe, neurons, tmp_path, layout="kohya")
    pipe.load_lora_weights(tmp_path)
    assert float((denoised(pipe, torch.float64) - expected).abs().max()) < 1e-9


def test_a_lora_carries_its_neurons(tmp_path: Path) -> None:
    pipe = make("Stable Diffusion")
    neurons = some_neurons(pipe)
    file = export_lora(pipe, neurons, tmp_path)
    assert read_lora(file) == neurons
    first = file.read_bytes()
    assert export_lora(pipe, read_lora(file), tmp_path / "again").read_bytes() == first


def test_what_cannot_be_a_lora_is_refused(tmp_path: Path) -> None:
    pixart = make("PixArt")
    with pytest.raises(ExportError, match="diffusers loads no LoRA into it"):
        export_lora(pixart, some_neurons(pixart), tmp_path)
    with_bias = make("DeepFloyd IF")
    with pytest.raises(ExportError, match="kohya layout has no place"):
        export_lora(with_bias, some_neurons(with_bias), tmp_path, layout="kohya")
    pipe = make("Stable Diffusion")
    with pytest.raises(ExportError, match="no neurons"):
        export_lora(pipe, NeuronFile.of(Model(pipe), Neurons()), tmp_path)
    export_lora(pipe, some_neurons(pipe), tmp_path)
    from safetensors.torch import load_file, save_file

    save_file(
        load_file(tmp_path / "pytorch_lora_weights.safetensors"), tmp_path / "other.safetensors"
    )
    with pytest.raises(ExportError, match="carries no neurons"):
        read_lora(tmp_path / "other.safetensors")


Cli = Callable[..., tuple[int, str, str]]


def test_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    pipe = saved("Stable Diffusion", tmp_path / "base")
    some_neurons(pipe).save(tmp_path / "n.json")
    options = ("--model", tmp_path / "base", "--device", "cpu")
    code, out, _ = cli("export", "lora", tmp_path / "n.json", *options, "-o", tmp_path / "lora")
    assert (code, "14 neurons off at strength 1" in out) == (0, True)
    assert "- lora\n" in (tmp_path / "lora" / "README.md").read_text()
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    assert cli("verify", file, tmp_path / "base")[0] == 0
    make("Stable Diffusion", seed=1).save_pretrained(tmp_path / "foreign")
    code, _, err = cli("verify", file, tmp_path / "foreign")
    assert (code, "were found in" in err) == (1, True)
    one = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    code, _, _ = cli(
        "export",
        "single-file",
        tmp_path / "n.json",
        one,
        *options,
        "-o",
        tmp_path / "edited.safetensors",
    )
    assert code == 0


def test_a_loaded_lora_is_another_model(tmp_path: Path) -> None:
    """Statistics and neurons of the plain model do not hold for it; it can be localized and switched off itself."""
    pipe = make("Stable Diffusion")
    model, neurons = Model(pipe), some_neurons(pipe)
    plain = model.fingerprint
    export_lora(pipe, neurons, tmp_path)
    pipe.load_lora_weights(tmp_path)
    adapted = Model(pipe)
    assert adapted.fingerprint != plain
    assert list(adapted.value_layers) == list(model.value_layers)
    path = next(iter(adapted.value_layers))
    before = denoised(pipe, torch.float32)
    with switched_off(pipe, Neurons({path: [0]})):
        assert not torch.equal(denoised(pipe, torch.float32), before)
    assert torch.equal(denoised(pipe, torch.float32), before)
    pipe.unload_lora_weights()
    assert Model(pipe).fingerprint == plain


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_lora_is_held_against_its_neurons(layout: Any, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    pipe = make("Stable Diffusion")
    file = export_lora(pipe, some_neurons(pipe, 0.5), tmp_path, layout=layout)
    assert verify_lora(file, pipe) == some_neurons(pipe, 0.5)
    assert verify_lora(file, pipe.to(torch.float16)) == some_neurons(pipe, 0.5)
    with safe_open(file, "pt") as handle:
        metadata = handle.metadata()
    tensors = load_file(file)
    changed = next(iter(tensors))
    save_file({**tensors, changed: tensors[changed] + 1}, file, metadata)
    with pytest.raises(ExportError, match="its tensors are not those"):
        verify_lora(file, pipe)
    save_file({**tensors, "more": torch.ones(1)}, file, metadata)
    with pytest.raises(ExportError, match="its tensors are not those"):
        verify_lora(file, pipe)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    pipe = make("Stable Diffusion")
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ExportError, match=r"README.md: exists already"):
        export_lora(pipe, some_neurons(pipe), tmp_path, card="a card")
    export_lora(pipe, some_neurons(pipe), tmp_path)
    with pytest.raises(ExportError, match=r"safetensors: exists already"):
        export_lora(pipe, some_neurons(pipe), tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
