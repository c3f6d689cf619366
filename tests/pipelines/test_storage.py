"""Weights count by their values, in whatever form they are kept.

Quantized models are compared with a plain model of the values that their layers compute with. These
values are read by multiplying the layers with a unit matrix, which no library needs to know of.
Tests that need a library which is not installed are skipped.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor, nn

from architectures import make
from artefacts import Saved, prediction, saved_model_fixture, some_neurons  # noqa: F401 -- fixtures
from conftest import make_pipeline
from unmemorize import (
    ExportError,
    Model,
    ModelError,
    Neurons,
    bake,
    compute_statistics,
    export_lora,
    load_pipeline,
    switched_off,
)
from unmemorize.export import verify
from unmemorize.pipelines import weights_of
from unmemorize.statistics import activations

CPU = torch.device("cpu")


def measured(model: Model) -> Tensor:
    """Activations of all layers, one after another, and a prediction with neurons off."""
    found = activations(model, model.encode(["a prompt", "another"]))
    neurons = Neurons({path: [0, 2] for path in model.value_layers})
    with switched_off(model, neurons):
        off = prediction(model)
    return torch.cat([*[found[path].flatten() for path in model.value_layers], off.flatten()])


def linear_layers(network: nn.Module, width: int = 1) -> dict[str, nn.Linear]:
    """The linear layers whose inputs are multiples of a width, by path."""
    return {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.in_features % width == 0
    }


def plain_copy_of(pipe: Any, architecture: str) -> Any:
    """A plain pipeline whose denoiser has the values that the layers of another compute with."""
    plain = make(architecture)
    for path, layer in linear_layers(pipe.unet).items():
        zeros, units = torch.zeros(1, layer.in_features), torch.eye(layer.in_features)
        bias = layer(zeros)
        own = plain.unet.get_submodule(path)
        own.weight.data = (layer(units) - bias).T.contiguous()
        if own.bias is not None:
            own.bias.data = bias[0]
    return plain


OFFLOADS: dict[str, Callable[[Any, Path], object]] = {
    "sequential": lambda pipe, _: accelerate.cpu_offload(pipe.unet, CPU),
    "model": lambda pipe, _: accelerate.cpu_offload_with_hook(pipe.unet, execution_device=CPU),
    "disk": lambda pipe, folder: accelerate.disk_offload(
        pipe.unet, str(folder / "offloaded"), execution_device=CPU
    ),
    "blocks": lambda pipe, _: pipe.unet.enable_group_offload(
        onload_device=CPU, offload_type="block_level", num_blocks_per_group=1
    ),
    "leaves": lambda pipe, _: pipe.unet.enable_group_offload(
        onload_device=CPU, offload_type="leaf_level"
    ),
}


@pytest.mark.parametrize("name", OFFLOADS)
def test_offloaded_weights_are_exact(name: str, saved_model: Saved, tmp_path: Path) -> None:
    plain = saved_model("Stable Diffusion")
    assert plain.loading is not None
    pipe: Any = load_pipeline(plain.loading.model, device="cpu", local_files_only=True)
    OFFLOADS[name](pipe, tmp_path)
    model = Model(pipe)
    assert torch.equal(measured(model), measured(plain))
    neurons = some_neurons(plain)
    files = export_lora(model, neurons, tmp_path / "lora")
    expected = export_lora(plain, neurons, tmp_path / "expected")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in expected]
    assert verify(bake(model, neurons, tmp_path / "baked"), plain).passed


@pytest.mark.parametrize("name", ["Stable Diffusion", "PixArt"])
def test_layers_of_offloaded_groups_run_only_inside_the_denoiser(name: str) -> None:
    """Elsewhere their weights may still be on another device."""
    model = Model(make(name))
    text = model.encode(["a prompt"])
    expected = activations(model, text)
    denoiser: Any = model.denoiser
    denoiser.enable_group_offload(
        onload_device=CPU, offload_type="block_level", num_blocks_per_group=1
    )
    running: list[bool] = []
    denoiser.register_forward_pre_hook(lambda *_: running.append(True))
    denoiser.register_forward_hook(lambda *_: running.clear())
    outside: list[str] = []
    for path, layer in model.value_layers.items():
        layer.register_forward_hook(lambda *_, path=path: None if running else outside.append(path))
    found = activations(model, text)
    assert not outside
    assert all(torch.equal(found[path], value) for path, value in expected.items())


def test_groups_in_files_are_refused(tmp_path: Path) -> None:
    pipe = make_pipeline()
    pipe.unet.enable_group_offload(
        onload_device=CPU,
        offload_type="leaf_level",
        offload_to_disk_path=str(tmp_path),
    )
    with pytest.raises(ModelError, match=r"unet: its groups are offloaded to files.*sequential"):
        compute_statistics(pipe, ["one", "two"])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_layerwise_casting_is_exact(dtype: torch.dtype, saved_model: Saved, tmp_path: Path) -> None:
    """The model is that of the rounded weights; what is exported fits these."""
    original = saved_model("Stable Diffusion")
    assert original.loading is not None
    pipe: Any = load_pipeline(original.loading.model, device="cpu", local_files_only=True)
    pipe.unet.enable_layerwise_casting(storage_dtype=dtype, compute_dtype=torch.float32)
    assert next(iter(Model(pipe).value_layers.values())).weight.dtype == dtype
    plain = make("Stable Diffusion")
    rounded = {
        key: value.to(plain.unet.state_dict()[key].dtype)
        for key, value in pipe.unet.state_dict().items()
    }
    plain.unet.load_state_dict(rounded)
    model, expected = Model(pipe), Model(plain)
    assert model.dtype == torch.float32
    assert model.fingerprint == expected.fingerprint != original.fingerprint
    assert torch.equal(measured(model), measured(expected))
    neurons = some_neurons(model, scale=0.25)
    for one, other in zip(
        export_lora(model, neurons, tmp_path / "lora"),
        export_lora(expected, neurons, tmp_path / "expected"),
        strict=True,
    ):
        assert verify(one, expected).passed
        assert verify(other, model).passed
    with pytest.raises(ExportError, match=r"kept in torch.float8.*or export a LoRA"):
        bake(model, neurons, tmp_path / "baked")


class EightBits(Tensor):
    """Weights in the form of torchao's and quanto's: a tensor that is no tensor to most calls."""

    kept: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> EightBits:
        made: EightBits = Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype)
        made.kept = (values * 128).round().clamp(-127, 127).to(torch.int8)
        return made

    def dequantize(self) -> Tensor:
        return self.kept.to(self.dtype) / 128

    @classmethod
    def __torch_function__(
        cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is nn.functional.linear:
            return function(args[0], args[1].dequantize(), *args[2:])
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return cls(args[0].dequantize())
        raise NotImplementedError(str(function))


def to_eight_bits(pipe: Any) -> None:
    for layer in linear_layers(pipe.unet).values():
        layer.weight = nn.Parameter(EightBits(layer.weight.data), requires_grad=False)


def to_torchao(pipe: Any) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(pipe.unet, Int8WeightOnlyConfig())


def to_quanto(pipe: Any) -> None:
    from optimum.quanto import freeze, qint8, quantize

    layers = set(linear_layers(pipe.unet))
    others = [path for path, _ in pipe.unet.named_modules() if path not in layers]
    quantize(pipe.unet, weights=qint8, exclude=others)
    freeze(pipe.unet)


def to_nf4(pipe: Any) -> None:
    import bitsandbytes

    for path, layer in linear_layers(pipe.unet).items():
        made = bitsandbytes.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            quant_type="nf4",
            compute_dtype=torch.float32,
        )
        made.load_state_dict(layer.state_dict())
        pipe.unet.set_submodule(path, made.requires_grad_(False).to("cpu"))


def to_gguf(pipe: Any) -> None:
    import gguf
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    kind = gguf.GGMLQuantizationType.Q8_0
    for path, layer in linear_layers(pipe.unet, 32).items():
        made = GGUFLinear(
            layer.in_features, layer.out_features, layer.bias is not None, torch.float32
        )
        packed = gguf.quants.quantize(layer.weight.numpy(), kind)
        made.weight = GGUFParameter(torch.from_numpy(packed), quant_type=kind)
        made.bias = layer.bias
        pipe.unet.set_submodule(path, made)


QUANTIZED: dict[str, tuple[str | None, Callable[[Any], None]]] = {
    "stand-in": (None, to_eight_bits),
    "torchao": ("torchao", to_torchao),
    "quanto": ("optimum.quanto", to_quanto),
    "bitsandbytes, 4 bits": ("bitsandbytes", to_nf4),
    "GGUF": ("gguf", to_gguf),
}


def is_installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_weights(name: str, tmp_path: Path) -> None:
    """Activations, switching and fingerprint are those of the values; exports are refused."""
    library, quantize = QUANTIZED[name]
    if library is not None and not is_installed(library):
        pytest.skip(f"{library} is not installed")
    pipe = make("Stable Diffusion XL")  # whose layers are wide enough for the blocks of GGUF
    original = Model(pipe).fingerprint
    quantize(pipe)
    model, expected = Model(pipe), Model(plain_copy_of(pipe, "Stable Diffusion XL"))
    assert model.fingerprint not in (original, "")
    assert len(model.widths) == len(expected.widths)
    for path, layer in model.value_layers.items():
        values = weights_of(layer)["weight"].float()
        torch.testing.assert_close(values, expected.value_layers[path].weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(measured(model), measured(expected), rtol=1e-4, atol=1e-4)
    neurons = some_neurons(model)
    for export in (bake, export_lora):
        with pytest.raises(ExportError, match=r"its unet is quantized \(.*without quantization"):
            export(model, neurons, tmp_path / "edited")


@pytest.mark.filterwarnings("ignore")
def test_eight_bits_of_bitsandbytes_are_refused() -> None:
    """Which inputs it rounds depends on the whole batch."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    pipe = make_pipeline()
    for path, layer in linear_layers(pipe.unet).items():
        made = bitsandbytes.nn.Linear8bitLt(
            layer.in_features, layer.out_features, layer.bias is not None, has_fp16_weights=False
        )
        made.load_state_dict(layer.state_dict())
        pipe.unet.set_submodule(path, made.to("cpu"))
    with pytest.raises(ModelError, match="results depend on the batch"):
        compute_statistics(pipe, ["one", "two"])


class Int8Params(nn.Parameter):
    """Bears the name of the weights of bitsandbytes."""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Int8Params, "results depend on the batch"),
        (nn.Parameter, "kept as Parameter of torch.int8"),
    ],
)
def test_forms_that_cannot_be_read_are_refused(kind: Any, message: str) -> None:
    pipe = make_pipeline()
    layer = pipe.unet.time_embedding.linear_1
    layer.weight = kind(layer.weight.data.to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match=f"unet: .*{message}.*without quantization"):
        Model(pipe)


def test_weights_that_quanto_has_not_frozen_are_refused() -> None:
    pipe = make_pipeline()
    layer: Any = pipe.unet.time_embedding.linear_1
    layer.weight_qtype, layer.frozen = "qint8", False
    with pytest.raises(ModelError, match=r"Call optimum\.quanto\.freeze first"):
        Model(pipe)


ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("LoraConfig", {"r": 2, "init_lora_weights": False}),
    "DoRA": ("LoraConfig", {"r": 2, "init_lora_weights": False, "use_dora": True}),
    "OFT": ("OFTConfig", {"oft_block_size": 4, "r": 0, "init_weights": False}),
    "BOFT": ("BOFTConfig", {"boft_block_size": 4, "init_weights": False}),
    "IA3": ("IA3Config", {"feedforward_modules": [], "init_ia3_weights": False}),
    "HRA": ("HRAConfig", {"r": 2, "init_weights": False}),
    "LoHa": ("LoHaConfig", {"r": 2, "init_weights": False}),
    "LoKr": ("LoKrConfig", {"r": 2, "init_weights": False}),
}


@pytest.mark.filterwarnings("ignore")  # of peft
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_of_every_kind(name: str, tmp_path: Path) -> None:
    """Activations and switching are those of the adapted values; only LoRAs can be exported."""
    peft = pytest.importorskip("peft")
    kind, options = ADAPTERS[name]
    pipe = make_pipeline()
    before = Model(pipe).fingerprint
    torch.manual_seed(2)
    pipe.unet.add_adapter(getattr(peft, kind)(target_modules=["to_v"], **options))
    pipe.unet.requires_grad_(False)
    model = Model(pipe)
    plain = make("Stable Diffusion")
    for path, own in linear_layers(plain.unet).items():
        layer: Any = pipe.unet.get_submodule(path)
        if hasattr(layer, "base_layer"):
            own.weight.data = layer(torch.eye(layer.in_features)).T.contiguous()
    assert list(model.value_layers) == list(Model(plain).value_layers)
    assert model.fingerprint not in (before, Model(plain).fingerprint)
    torch.testing.assert_close(measured(model), measured(Model(plain)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(measured(model), measured(Model(make_pipeline())), rtol=1e-2)
    if name == "LoRA":  # tests/export/test_with_loras.py
        return
    neurons = some_neurons(model)
    for export in (bake, export_lora):
        with pytest.raises(ExportError, match=r"adapter is loaded \(peft\.tuners.*no plain LoRA"):
            export(model, neurons, tmp_path / "edited")


def test_a_fused_lora_is_part_of_the_weights(tmp_path: Path) -> None:
    """Fused and loaded agree up to rounding; unloading what is fused changes nothing."""
    peft = pytest.importorskip("peft")
    pipe = make_pipeline()
    torch.manual_seed(3)
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_v"], init_lora_weights=False))
    loaded = measured(Model(pipe))
    pipe.fuse_lora(components=["unet"])
    fused = measured(Model(pipe))
    torch.testing.assert_close(fused, loaded, rtol=1e-4, atol=1e-4)
    pipe.unload_lora_weights()
    model = Model(pipe)
    assert torch.equal(measured(model), fused)
    neurons = some_neurons(model)
    for file in export_lora(model, neurons, tmp_path / "lora"):
        assert verify(file, model).passed
    pipe.save_pretrained(tmp_path / "base")
    saved = Model.load(str(tmp_path / "base"), device="cpu", local_files_only=True)
    assert torch.equal(measured(saved), fused)
    assert verify(bake(saved, neurons, tmp_path / "baked"), saved).passed
