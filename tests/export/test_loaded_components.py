"""`bake` writes what is loaded, or refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import AutoencoderTiny, DiffusionPipeline, EulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from architectures import ARCHITECTURES, clip_config, make, unet
from artefacts import (  # noqa: F401 -- fixtures
    Saved,
    model_fixture,
    own_model_fixture,
    saved_model_fixture,
    some_neurons,
)
from unmemorize import ExportError, Model, ModelError, bake
from unmemorize.export import verify
from unmemorize.export._loaded_components import _same

VAE = Path("vae/diffusion_pytorch_model.safetensors")


def scaled(part: torch.nn.Module, factor: float) -> None:
    with torch.no_grad():
        for value in part.parameters():
            value.mul_(factor)


def another(pipe: Any, name: str) -> None:
    setattr(pipe, name, getattr(make("Stable Diffusion", seed=1), name))


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "text encoder times 1.5": (lambda pipe: scaled(pipe.text_encoder, 1.5), "text_encoder: "),
    "text encoder times 1.001": (lambda pipe: scaled(pipe.text_encoder, 1.001), "text_encoder: "),
    "one bias of the VAE": (
        lambda pipe: pipe.vae.decoder.conv_out.bias.data[0].add_(1e-2),
        "vae: decoder.conv_out.bias is not",
    ),
    "another VAE": (lambda pipe: another(pipe, "vae"), "vae: "),
    "setting of the VAE": (
        lambda pipe: pipe.vae.register_to_config(scaling_factor=1.0),
        "vae: scaling_factor is not",
    ),
    "denoiser layer that is not edited": (
        lambda pipe: pipe.unet.conv_in.weight.data.mul_(1.01),
        "unet: conv_in.weight is not",
    ),
    "NaN": (lambda pipe: pipe.unet.conv_in.weight.data[0].fill_(torch.nan), "unet: conv_in.weight"),
    "more words": (
        lambda pipe: pipe.text_encoder.resize_token_embeddings(60),
        "text_encoder: ",
    ),
    "class of the VAE": (
        lambda pipe: setattr(pipe, "vae", AutoencoderTiny()),
        "vae is a AutoencoderTiny, but the folder has AutoencoderKL",
    ),
    "class of the scheduler": (
        lambda pipe: setattr(
            pipe, "scheduler", EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        ),
        "scheduler is a EulerDiscreteScheduler, but the folder has DDIMScheduler",
    ),
    "setting of the scheduler": (
        lambda pipe: pipe.scheduler.register_to_config(prediction_type="v_prediction"),
        "scheduler: prediction_type is not",
    ),
    "no VAE": (
        lambda pipe: pipe.register_modules(vae=None),
        r"vae is not in the loaded pipeline, but the folder has it \(AutoencoderKL\)",
    ),
    "an image encoder more": (
        lambda pipe: pipe.register_modules(image_encoder=CLIPTextModel(clip_config())),
        "image_encoder is a CLIPTextModel, but the folder has none",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_only_in_memory_is_not_exported(
    change: str, own_model: Model, tmp_path: Path
) -> None:
    """Also where the folder has the same fingerprint."""
    act, message = CHANGES[change]
    neurons = some_neurons(own_model)
    act(own_model.pipe)
    with pytest.raises(ExportError, match=message) as refusal:
        bake(own_model, neurons, tmp_path / "baked")
    assert "Save the pipeline with pipe.save_pretrained" in str(refusal.value)
    assert not (tmp_path / "baked").exists()


@pytest.mark.parametrize("change", ["text encoder times 1.5", "setting of the scheduler"])
def test_the_way_out_leads_out(change: str, own_model: Model, tmp_path: Path) -> None:
    CHANGES[change][0](own_model.pipe)
    own_model.pipe.save_pretrained(tmp_path / "saved")
    model = Model.load(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    bake(model, some_neurons(model), tmp_path / "baked")
    plain: Any = DiffusionPipeline.from_pretrained(tmp_path / "baked", local_files_only=True)
    for key, value in own_model.pipe.text_encoder.state_dict().items():
        assert torch.equal(plain.text_encoder.state_dict()[key], value)
    kind = own_model.pipe.scheduler.config.prediction_type
    assert plain.scheduler.config.prediction_type == kind


def test_what_every_loading_corrects_is_no_change(own_model: Model, tmp_path: Path) -> None:
    """Old checkpoints clip samples, and each pipeline that loads one stops that."""
    config = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    text = config.read_text()
    assert '"clip_sample": false' in text
    config.write_text(text.replace('"clip_sample": false', '"clip_sample": true'))
    with pytest.warns(FutureWarning, match="clip_sample"):
        model = Model.load(str(tmp_path / "base"), device="cpu", local_files_only=True)
    assert not model.pipe.scheduler.config.clip_sample
    bake(model, some_neurons(model), tmp_path / "baked")


def test_a_fused_lora_is_noticed(own_model: Model, tmp_path: Path) -> None:
    """In layers that are not searched, which no fingerprint covers."""
    peft = pytest.importorskip("peft")
    pipe = own_model.pipe
    pipe.unet.add_adapter(peft.LoraConfig(target_modules=["to_k"], init_lora_weights=False))
    bake(pipe, some_neurons(Model(pipe)), tmp_path / "with")
    pipe.fuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    with pytest.raises(ExportError, match=r"unet: .*to_k.weight is not what the loaded model has"):
        bake(pipe, some_neurons(Model(pipe)), tmp_path / "baked")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("variants", [(None,), (None, "fp16")])
def test_rounding_is_no_change(
    dtype: str, variants: tuple[str | None, ...], tmp_path: Path
) -> None:
    pipe = make("Stable Diffusion")
    for variant in variants:
        (pipe.to(torch.float16) if variant else pipe).save_pretrained(
            tmp_path / "base", variant=variant
        )
    model = Model.load(str(tmp_path / "base"), device="cpu", dtype=dtype, local_files_only=True)
    bake(model, some_neurons(model), tmp_path / "baked")
    scaled(model.pipe.vae, 1.02)
    with pytest.raises(ExportError, match="vae: "):
        bake(model, some_neurons(model), tmp_path / "again")


def test_a_variant_that_was_widened(tmp_path: Path) -> None:
    """The folder holds float32, too; rounding alone separates it from what is loaded."""
    pipe = make("Stable Diffusion")
    pipe.save_pretrained(tmp_path / "base")
    pipe.to(torch.float16).save_pretrained(tmp_path / "base", variant="fp16")
    base = str(tmp_path / "base")
    model = Model.load(base, device="cpu", dtype="float32", variant="fp16", local_files_only=True)
    bake(model, some_neurons(model), tmp_path / "baked")
    assert verify(tmp_path / "baked", model).passed


def test_every_variant_is_compared(own_model: Model, tmp_path: Path) -> None:
    """Plain and sharded; who loads the copy may ask for any."""
    folder = tmp_path / "base"
    weights = load_file(folder / VAE)
    weights["decoder.conv_out.bias"] += 1
    save_file(weights, folder / "vae" / "diffusion_pytorch_model.other.safetensors")
    with pytest.raises(ExportError, match=r"vae: decoder.conv_out.bias is not"):
        bake(own_model, some_neurons(own_model), tmp_path / "baked")


def test_shards(tmp_path: Path) -> None:
    make("Flux").save_pretrained(tmp_path / "base", max_shard_size="20KB")
    assert len(list((tmp_path / "base" / "transformer").glob("*.safetensors"))) > 1
    model = Model.load(str(tmp_path / "base"), device="cpu", local_files_only=True)
    bake(model, some_neurons(model), tmp_path / "baked")
    assert verify(tmp_path / "baked", model).passed
    scaled(model.pipe.text_encoder_2, 1.5)
    with pytest.raises(ExportError, match="text_encoder_2: "):
        bake(model, some_neurons(model), tmp_path / "again")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_text_encoder_counts(saved_model: Saved, name: str, tmp_path: Path) -> None:
    model = saved_model(name)
    neurons = some_neurons(model)
    encoders = [part for part in model.pipe.components if part.startswith("text_encoder")]
    for encoder in encoders:
        component = getattr(model.pipe, encoder)
        before = {key: value.clone() for key, value in component.state_dict().items()}
        scaled(component, 1.5)
        with pytest.raises(ExportError, match=f"{encoder}: "):
            bake(model, neurons, tmp_path / "baked")
        component.load_state_dict(before)
    bake(model, neurons, tmp_path / "baked")


def test_weights_that_are_elsewhere(own_model: Model, tmp_path: Path) -> None:
    """Offloaded weights are read from where accelerate keeps them."""
    neurons = some_neurons(own_model)
    cpu_offload(own_model.pipe.text_encoder, torch.device("cpu"))
    assert next(own_model.pipe.text_encoder.parameters()).is_meta
    bake(own_model, neurons, tmp_path / "baked")
    make("Stable Diffusion", seed=1).text_encoder.save_pretrained(tmp_path / "base/text_encoder")
    with pytest.raises(ExportError, match="text_encoder: "):
        bake(own_model, neurons, tmp_path / "again")


def test_weights_that_are_nowhere(own_model: Model, tmp_path: Path) -> None:
    neurons = some_neurons(own_model)
    own_model.pipe.vae.to("meta")
    with pytest.raises(ModelError, match=r"Conv2d: its weight is not in memory"):
        bake(own_model, neurons, tmp_path / "baked")


def test_compiled_networks_are_compared_too(own_model: Model, tmp_path: Path) -> None:
    neurons = some_neurons(own_model)
    own_model.pipe.vae = torch.compile(own_model.pipe.vae, backend="eager")
    bake(own_model, neurons, tmp_path / "baked")
    scaled(own_model.pipe.vae, 1.5)
    with pytest.raises(ExportError, match="vae: "):
        bake(own_model, neurons, tmp_path / "again")


def test_a_component_that_cannot_be_loaded(own_model: Model, tmp_path: Path) -> None:
    (tmp_path / "base" / "vae" / "config.json").write_text("{")
    with pytest.raises(ExportError, match="vae cannot be loaded from the folder"):
        bake(own_model, some_neurons(own_model), tmp_path / "baked")


def test_a_safety_checker_may_be_left_out(own_model: Model, tmp_path: Path) -> None:
    """It looks at finished images only, and pipelines are often loaded without it."""
    index = tmp_path / "base" / "model_index.json"
    text = index.read_text()
    old = '"safety_checker": [\n    null,\n    null\n  ]'
    assert old in text
    index.write_text(text.replace(old, '"safety_checker": ["diffusers", "AutoencoderTiny"]'))
    AutoencoderTiny().save_pretrained(tmp_path / "base" / "safety_checker")
    bake(own_model, some_neurons(own_model), tmp_path / "baked")
    assert (tmp_path / "baked" / "safety_checker").is_dir()


@pytest.mark.parametrize("file", [None, "config.json"])
def test_a_safety_checker_that_was_not_downloaded(
    file: str | None, own_model: Model, tmp_path: Path
) -> None:
    """diffusers leaves out the files of a component that it is told to load a pipeline without."""
    index = tmp_path / "base" / "model_index.json"
    components = json.loads(index.read_text())
    components["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    components["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index.write_text(json.dumps(components))
    if file is not None:
        (tmp_path / "base" / "safety_checker").mkdir()
        (tmp_path / "base" / "safety_checker" / file).write_text("{}")
    pipe = DiffusionPipeline.from_pretrained(
        tmp_path / "base", safety_checker=None, feature_extractor=None
    )
    model = Model(pipe)
    folder = bake(model, some_neurons(model), tmp_path / "baked")
    assert DiffusionPipeline.from_pretrained(folder).safety_checker is None
    assert verify(folder, model).passed
    (folder / "model_index.json").write_text(json.dumps({**components, "scheduler": [None, None]}))
    assert [change.file for change in verify(folder, model).unexpected] == ["model_index.json"]


def test_another_denoiser_of_the_same_values(own_model: Model, tmp_path: Path) -> None:
    """Its value layers are those of the folder, so the fingerprint fits, but nothing else does."""
    other = unet()
    values = {
        key: value
        for key, value in own_model.pipe.unet.state_dict().items()
        if ".attn2.to_v." in key
    }
    other.load_state_dict(values, strict=False)
    own_model.pipe.unet = other
    model = Model(own_model.pipe)
    assert model.fingerprint == own_model.fingerprint
    with pytest.raises(ExportError, match="unet: "):
        bake(model, some_neurons(model), tmp_path / "baked")


@pytest.mark.parametrize(
    ("stored", "loaded", "same"),
    [
        (torch.tensor([2049]), torch.tensor([2049]), True),
        (torch.tensor([2049]), torch.tensor([2048]), False),  # which float16 cannot tell apart
        (torch.ones(2), torch.ones(3), False),
        (torch.ones(1), torch.ones(1) + 2**-9, False),
        (torch.ones(1), torch.ones(1) + 2**-12, False),
        (torch.ones(1) + 2**-12, torch.ones(1), True),  # was loaded in float16
        (torch.ones(1), (torch.ones(1) + 2**-7).to(torch.bfloat16), False),
    ],
)
def test_types_of_any_width_are_compared(stored: Tensor, loaded: Tensor, *, same: bool) -> None:
    assert _same(stored, loaded, several=False) == same
