"""What other programs find in a LoRA.

The names of tensors and of original layers are written out here from the conventions of these
programs, and a merge of its own applies the files to the original layers.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from architectures import make, stable_diffusion_xl, unet
from artefacts import some_neurons, uneven_neurons
from unmemorize import ClosedFormEdit, EditFile, Erased, ExportError, Model, export_lora
from unmemorize.export import LAYOUT_NAMES, LAYOUTS, verify
from unmemorize.export._sdxl_names import original_name
from unmemorize.generation import LowRank, WeightEdit

pytest.importorskip("peft")

VALUES = {
    "Stable Diffusion": {
        f"lora_unet_{block}_transformer_blocks_0_attn2_to_v": (
            f"{path}.transformer_blocks.0.attn2.to_v"
        )
        for block, path in {
            "down_blocks_0_attentions_0": "down_blocks.0.attentions.0",
            "down_blocks_1_attentions_0": "down_blocks.1.attentions.0",
            "mid_block_attentions_0": "mid_block.attentions.0",
            "up_blocks_0_attentions_0": "up_blocks.0.attentions.0",
            "up_blocks_0_attentions_1": "up_blocks.0.attentions.1",
            "up_blocks_1_attentions_0": "up_blocks.1.attentions.0",
            "up_blocks_1_attentions_1": "up_blocks.1.attentions.1",
        }.items()
    },
    "Stable Diffusion XL": {
        f"lora_unet_{block}_transformer_blocks_{number}_attn2_to_v": (
            f"{path}.transformer_blocks.{number}.attn2.to_v"
        )
        for block, (path, depth) in {
            "input_blocks_1_1": ("down_blocks.0.attentions.0", 1),
            "input_blocks_3_1": ("down_blocks.1.attentions.0", 2),
            "middle_block_1": ("mid_block.attentions.0", 2),
            "output_blocks_0_1": ("up_blocks.0.attentions.0", 2),
            "output_blocks_1_1": ("up_blocks.0.attentions.1", 2),
            "output_blocks_2_1": ("up_blocks.1.attentions.0", 1),
            "output_blocks_3_1": ("up_blocks.1.attentions.1", 1),
        }.items()
        for number in range(depth)
    },
    "Stable Diffusion 3": {
        "lora_unet_joint_blocks_0_context_block_attn_qkv": "transformer_blocks.0.attn.add_v_proj",
        "lora_unet_joint_blocks_1_context_block_attn_qkv": "transformer_blocks.1.attn.add_v_proj",
        "lora_unet_joint_blocks_2_context_block_attn_qkv": "transformer_blocks.2.attn.add_v_proj",
    },
    "Flux": {
        "lora_unet_double_blocks_0_txt_attn_qkv": "transformer_blocks.0.attn.add_v_proj",
        "lora_unet_double_blocks_1_txt_attn_qkv": "transformer_blocks.1.attn.add_v_proj",
    },
}
"""Name in the file -> value layer of diffusers."""
VALUES["Stable Diffusion 2"] = VALUES["Stable Diffusion"]
BLOCKS_OF_SDXL = {
    "input_blocks_4_1": 2,
    "input_blocks_5_1": 2,
    "input_blocks_7_1": 10,
    "input_blocks_8_1": 10,
    "middle_block_1": 10,
    "output_blocks_0_1": 10,
    "output_blocks_1_1": 10,
    "output_blocks_2_1": 10,
    "output_blocks_3_1": 2,
    "output_blocks_4_1": 2,
    "output_blocks_5_1": 2,
}
"""The 70 layers of Stable Diffusion XL that read text: block -> how many it has."""


SDXL_RESIDUALS = {
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    "time_embedding.linear_2": "time_embed_2",
    "add_embedding.linear_1": "label_emb_0_0",
    "down_blocks.0.resnets.0.conv1": "input_blocks_1_0_in_layers_2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_2_0_op",
    "down_blocks.1.resnets.0.time_emb_proj": "input_blocks_3_0_emb_layers_1",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks_3_0_skip_connection",
    "mid_block.resnets.0.conv2": "middle_block_0_out_layers_3",
    "mid_block.resnets.1.conv2": "middle_block_2_out_layers_3",
    "up_blocks.0.resnets.1.conv1": "output_blocks_1_0_in_layers_2",
    "up_blocks.0.upsamplers.0.conv": "output_blocks_1_2_conv",
}
"""Of the tiny Stable Diffusion XL, whose blocks are those of `VALUES`."""


def kohya_file(model: Model, folder: Path, scale: float = 0.0) -> Path:
    (file,) = export_lora(model, uneven_neurons(model, scale), folder, layout="kohya")
    return file


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as tensors:
        return dict(tensors.metadata())


def original_layer(denoiser: torch.nn.Module, path: str) -> dict[str, Tensor]:
    """The layer as the original model has it: transformers keep q, k and v of the text in one."""
    value = denoiser.get_submodule(path)
    if not path.endswith("add_v_proj"):
        return {name: tensor.detach() for name, tensor in value.named_parameters()}
    layers = [
        denoiser.get_submodule(path.replace("add_v_proj", f"add_{kind}_proj")) for kind in "qkv"
    ]
    return {
        name: torch.cat([layer.get_parameter(name).detach() for layer in layers])
        for name in ("weight", "bias")
    }


def merged(layer: dict[str, Tensor], file: dict[str, Tensor], name: str, strength: float) -> Any:
    """W + strength alpha / rank B A, and b + strength diff_b."""
    down, up = file.pop(f"{name}.lora_down.weight"), file.pop(f"{name}.lora_up.weight")
    factor = strength * float(file.pop(f"{name}.alpha")) / len(down)
    result = {"weight": layer["weight"] + factor * (up @ down)}
    if "bias" in layer:
        result["bias"] = layer["bias"] + strength * file.pop(f"{name}.diff_b")
    return result


@pytest.mark.parametrize("scale", [0.0, 0.25])
@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0])
@pytest.mark.parametrize("name", VALUES)
def test_the_merged_weights_are_the_scaled_rows(
    name: str, strength: float, scale: float, tmp_path: Path
) -> None:
    """All of the file is used, and nothing but the neurons' rows changes."""
    model = Model(make(name).to(torch.float64))
    neurons = uneven_neurons(model, scale)
    file = load_file(kohya_file(model, tmp_path, scale))
    assert set(VALUES[name].values()) == set(neurons.neurons.layers)
    for key, path in VALUES[name].items():
        before = original_layer(model.denoiser, path)
        after = merged(before, file, key, strength)
        features = model.value_layers[path].out_features
        first = features * (2 if path.endswith("add_v_proj") else 0)
        rows = [first + index for index in neurons.neurons.layers[path]]
        for kind, value in before.items():
            expected = value.clone()
            expected[rows] *= 1 - strength * (1 - scale)
            assert float((after[kind] - expected).abs().max()) < 1e-12
            assert not torch.equal(after[kind], value)
    assert not file


@pytest.mark.parametrize("strength", [1.0, -0.5])
@pytest.mark.parametrize("name", ["Stable Diffusion", "Stable Diffusion 2", "Stable Diffusion XL"])
def test_a_closed_form_goes_into_keys_and_values(
    name: str, strength: float, tmp_path: Path
) -> None:
    model = Model(make(name).to(torch.float64))
    edit = ClosedFormEdit((Erased("a cat", 3.0),), ("a dog",))
    (path,) = export_lora(model, EditFile.of(model, edit), tmp_path, layout="kohya")
    file, changes = load_file(path), edit.changes(model)
    for key, value_layer in VALUES[name].items():
        for kind in ("to_k", "to_v"):
            layer = f"{value_layer.removesuffix('to_v')}{kind}"
            before = original_layer(model.denoiser, layer)
            after = merged(before, file, f"{key.removesuffix('to_v')}{kind}", strength)
            change = changes.pop(layer).of_weight(before["weight"]) - before["weight"]
            assert float(change.abs().max()) > 1e-3
            expected = before["weight"] + strength * change
            assert float((after["weight"] - expected).abs().max()) < 1e-10
    assert not file
    assert not changes


def test_the_layers_of_stable_diffusion_xl(tmp_path: Path) -> None:
    """The real structure in small: 70 layers, of which 10 are in the middle."""
    pipe = stable_diffusion_xl()
    pipe.unet = unet(
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
        use_linear_projection=True,
    )
    names = {
        f"lora_unet_{block}_transformer_blocks_{number}_attn2_to_v"
        for block, depth in BLOCKS_OF_SDXL.items()
        for number in range(depth)
    }
    assert len(names) == 70
    tensors = load_file(kohya_file(Model(pipe), tmp_path))
    assert {key.partition(".")[0] for key in tensors} == names
    assert len(tensors) == 3 * 70


def as_v_prediction(pipe: Any) -> None:
    pipe.scheduler.register_to_config(prediction_type="v_prediction")


def as_epsilon(pipe: Any) -> None:
    pipe.scheduler.register_to_config(prediction_type="epsilon")


def as_another_transformer(**change: Any) -> Callable[[Any], None]:
    def exchange(pipe: Any) -> None:
        pipe.transformer = type(pipe.transformer).from_config({**pipe.transformer.config, **change})

    return exchange


@pytest.mark.parametrize(
    ("name", "change", "version", "is_v2", "module", "architecture"),
    [
        ("Stable Diffusion", None, "sd_v1", "False", "lora", "stable-diffusion-v1"),
        ("Stable Diffusion", as_v_prediction, "sd_v1_v", "False", "lora", "stable-diffusion-v1"),
        ("Stable Diffusion 2", None, "sd_v2_v", "True", "lora", "stable-diffusion-v2-768-v"),
        ("Stable Diffusion 2", as_epsilon, "sd_v2", "True", "lora", "stable-diffusion-v2-512"),
        (
            "Stable Diffusion XL",
            None,
            "sdxl_base_v1-0",
            "False",
            "lora",
            "stable-diffusion-xl-v1-base",
        ),
        (
            "Stable Diffusion 3",
            None,
            "sd3.5_medium",
            "False",
            "lora_sd3",
            "stable-diffusion-3-5-medium",
        ),
        (
            "Stable Diffusion 3",
            as_another_transformer(dual_attention_layers=()),
            "sd3.5_large",
            "False",
            "lora_sd3",
            "stable-diffusion-3-5-large",
        ),
        (
            "Stable Diffusion 3",
            as_another_transformer(dual_attention_layers=(), qk_norm=None),
            "sd3_medium",
            "False",
            "lora_sd3",
            "stable-diffusion-3-medium",
        ),
        ("Flux", None, "flux1", "False", "lora_flux", "flux-1-dev"),
        (
            "Flux",
            as_another_transformer(guidance_embeds=False),
            "flux1",
            "False",
            "lora_flux",
            "flux-1-schnell",
        ),
    ],
)
def test_metadata_tell_programs_what_it_is_for(
    name: str,
    change: Callable[[Any], None] | None,
    version: str,
    is_v2: str,
    module: str,
    architecture: str,
    tmp_path: Path,
) -> None:
    pipe = make(name)
    if change is not None:
        change(pipe)
    pipe.register_to_config(_name_or_path="owner/some model")
    file = kohya_file(Model(pipe), tmp_path)
    written = metadata_of(file)
    assert "owner/some model" in written.pop("unmemorize")
    assert written.pop("format") == "pt"
    implementation = written.pop("modelspec.implementation", None)
    assert implementation == (
        "https://github.com/black-forest-labs/flux" if name == "Flux" else None
    )
    assert written == {
        "ss_output_name": "some-model-unmemorized-kohya",
        "ss_base_model_version": version,
        "ss_v2": is_v2,
        "ss_network_module": f"networks.{module}",
        "ss_network_dim": "3",
        "ss_network_alpha": "3.0",
        "modelspec.architecture": f"{architecture}/lora",
    }


def taken_for(metadata: dict[str, str]) -> str:
    """How A1111 decides: by the prefix of the base's version, then by the flag of version 2."""
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "Stable Diffusion XL"
    return "Stable Diffusion 2" if metadata.get("ss_v2") == "True" else "Stable Diffusion"


@pytest.mark.parametrize("name", ["Stable Diffusion", "Stable Diffusion 2", "Stable Diffusion XL"])
def test_programs_do_not_confuse_the_versions(name: str, tmp_path: Path) -> None:
    assert taken_for(metadata_of(kohya_file(Model(make(name)), tmp_path))) == name


@pytest.mark.parametrize("name", [*VALUES, "DeepFloyd IF"])
def test_verify_accepts_all_layouts(name: str, tmp_path: Path) -> None:
    model = Model(make(name))
    neurons = uneven_neurons(model, -0.5)
    files = export_lora(model, neurons, tmp_path)
    assert len(files) == (1 if name == "DeepFloyd IF" else 2)
    verification = verify(tmp_path, model)
    assert verification.passed
    assert len(verification.changes) == len(files) * len(neurons.neurons.layers)


def test_verify_accepts_names_of_diffusers_for_stable_diffusion_xl(tmp_path: Path) -> None:
    """As earlier versions wrote them."""
    model = Model(make("Stable Diffusion XL"))
    file = kohya_file(model, tmp_path)
    names = VALUES["Stable Diffusion XL"]
    renamed = {}
    for key, value in load_file(file).items():
        layer, _, kind = key.partition(".")
        renamed[f"lora_unet_{names[layer].replace('.', '_')}.{kind}"] = value
    save_file(renamed, file, metadata_of(file))
    assert verify(file, model).passed


def in_rows(kind: str, row: int) -> Callable[[dict[str, Tensor]], object]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensor = next(value for key, value in tensors.items() if key.endswith(kind))
        tensor[row] += 1

    return change


def drop(kind: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(next(key for key in tensors if key.endswith(kind)))


def halve_alpha(tensors: dict[str, Tensor]) -> None:
    next(value for key, value in tensors.items() if key.endswith(".alpha")).mul_(0.5)


def shorten(kind: str) -> Callable[[dict[str, Tensor]], object]:
    """Keep only the values, as a layout without queries and keys would have them."""

    def change(tensors: dict[str, Tensor]) -> None:
        key = next(key for key in tensors if key.endswith(kind))
        tensors[key] = tensors[key].chunk(3)[-1].contiguous()

    return change


def first_thirds(kind: str) -> Callable[[dict[str, Tensor]], object]:
    def change(tensors: dict[str, Tensor]) -> None:
        key = next(key for key in tensors if key.endswith(kind))
        tensors[key] = tensors[key].roll(len(tensors[key]) // 3, 0).contiguous()

    return change


DAMAGES = {
    "queries": in_rows(".lora_up.weight", 0),
    "biases of keys": in_rows(".diff_b", 20),
    "biases of values": in_rows(".diff_b", -1),
    "no bias": drop(".diff_b"),
    "no matrix": drop(".lora_down.weight"),
    "alpha": halve_alpha,
    "no queries and keys": shorten(".lora_up.weight"),
    "no biases of queries and keys": shorten(".diff_b"),
    "queries in place of values": first_thirds(".lora_up.weight"),
    "biases in place": first_thirds(".diff_b"),
}


@pytest.mark.parametrize("name", ["Flux", "Stable Diffusion 3"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_layer_of_three_projections_is_held_against_its_neurons(
    damage: str, name: str, tmp_path: Path
) -> None:
    model = Model(make(name))
    with torch.no_grad():
        for layer in model.value_layers.values():
            if layer.bias is not None:
                layer.bias.normal_()
    file = kohya_file(model, tmp_path)
    assert verify(file, model).passed
    tensors, metadata = load_file(file), metadata_of(file)
    DAMAGES[damage](tensors)
    save_file(tensors, file, metadata)
    unexpected = {change.key for change in verify(file, model).unexpected}
    assert next(iter(model.value_layers)) in unexpected


def test_alpha_is_no_factor_of_biases(tmp_path: Path) -> None:
    """Programs multiply diff_b by the strength alone."""
    model = Model(make("Flux"))
    file = kohya_file(model, tmp_path)
    tensors, metadata = load_file(file), metadata_of(file)
    for key, value in tensors.items():
        if key.endswith(".alpha"):
            value.mul_(2)
        elif key.endswith(".lora_up.weight"):
            value.mul_(0.5)
    save_file(tensors, file, metadata)
    assert verify(file, model).passed


def test_a_file_with_the_names_of_another_model_is_none(tmp_path: Path) -> None:
    model = Model(make("Flux"))
    file = kohya_file(model, tmp_path)
    tensors, metadata = load_file(file), metadata_of(file)
    renamed = {
        re.sub("double_blocks_(.)_txt", r"joint_blocks_\1_context_block", key): value
        for key, value in tensors.items()
    }
    save_file(renamed, file, metadata)
    assert not verify(file, model).passed


def test_layers_that_the_original_model_does_not_have(tmp_path: Path) -> None:
    """A depth per block is no structure of Stable Diffusion XL, and its names would be guesses."""
    pipe = stable_diffusion_xl()
    pipe.unet = UNet2DConditionModel.from_config({**pipe.unet.config, "layers_per_block": (1, 1)})
    model = Model(pipe)
    files = export_lora(model, some_neurons(model), tmp_path)
    assert [file.name for file in files] == ["pytorch_lora_weights.safetensors"]
    with pytest.raises(ExportError, match="kohya layout has no place for the edited layers"):
        export_lora(model, some_neurons(model), tmp_path, layout="kohya")


def test_layouts_are_a_registry() -> None:
    assert LAYOUT_NAMES == ("diffusers", "kohya")
    for layout in LAYOUTS:
        assert layout.models
        assert layout.programs


def test_trained_weights_of_sdxl_keep_their_original_names(tmp_path: Path) -> None:
    """All matrices of the U-Net: names from the original model, then read back by diffusers."""
    model = Model(make("Stable Diffusion XL"))
    generator = torch.Generator().manual_seed(0)
    differences = {
        name: LowRank(
            torch.randn(len(value), 1, generator=generator),
            torch.randn((1, *value.shape[1:]), generator=generator),
        )
        for name, value in model.denoiser.named_parameters()
        if value.ndim > 1
    }
    edit = WeightEdit(differences, "hardening")
    files = export_lora(model, EditFile.of(model, edit), tmp_path)
    assert len(files) == 2
    tensors = load_file(files[1])
    for path, name in SDXL_RESIDUALS.items():
        factors = differences[f"{path}.weight"]
        assert torch.equal(tensors[f"lora_unet_{name}.lora_down.weight"], factors.down)
        assert torch.equal(tensors[f"lora_unet_{name}.lora_up.weight"].flatten(1), factors.up)
    assert verify(files[1], model).passed
    pipe: Any = model.pipe
    pipe.load_lora_weights(tmp_path, weight_name=files[1].name, adapter_name="edit")
    for name, factors in differences.items():
        layer = pipe.unet.get_submodule(name.removesuffix(".weight"))
        assert torch.allclose(layer.get_delta_weight("edit"), factors.product(), atol=1e-5), name


def test_sdxl_without_attention_on_the_way_up_resamples_in_the_second_place() -> None:
    """The published model resamples beside attention alone, but smaller ones need not."""
    model = Model(make("Stable Diffusion XL"))
    del model.pipe.unet.up_blocks[0].attentions
    assert original_name(model.denoiser, "up_blocks.0.upsamplers.0.conv") == (
        "output_blocks.1.1.conv"
    )
    assert original_name(model.denoiser, "mid_block.resnets.0.norm1") is None
    assert original_name(model.denoiser, "conv_norm_out") is None
