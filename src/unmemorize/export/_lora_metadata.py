"""What a LoRA says about itself: settings of peft, and the entries of kohya's scripts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

from unmemorize._files import to_json
from unmemorize.pipelines import Model, by_component

ADAPTER_METADATA = "lora_adapter_metadata"
"""The name under which diffusers looks for the settings of peft."""
_FLUX_IMPLEMENTATION = "https://github.com/black-forest-labs/flux"
"""Forge recognizes LoRAs for Flux by it."""


@dataclass(frozen=True)
class LoraContent:
    """What the metadata of a LoRA depend on.

    Args:
        model: the base.
        paths: the layers that it changes.
        rank: the rank of all its matrices, which is alpha, too.
        has_bias: whether a layer has a bias.
        stem: the name of its file without the suffix.
    """

    model: Model
    paths: tuple[str, ...]
    rank: int
    has_bias: bool
    stem: str


@dataclass(frozen=True)
class AdapterSettings:
    """The settings of peft that a LoRA carries in its metadata.

    Args:
        r: the rank.
        lora_alpha: peft multiplies B A by lora_alpha / r.
        lora_bias: whether B has a bias.
        target_modules: the paths of the layers.
    """

    r: int
    lora_alpha: float
    lora_bias: bool
    target_modules: list[str]


def adapter_metadata(content: LoraContent) -> dict[str, str]:
    """Write the settings of peft, by which diffusers builds the adapter of each component."""
    prefixed: dict[str, Any] = {}
    components = by_component(content.model.pipe, dict.fromkeys(sorted(content.paths)))
    for component, paths in components.items():
        settings = AdapterSettings(content.rank, content.rank, content.has_bias, list(paths))
        prefixed |= {f"{component}.{name}": value for name, value in to_json(settings).items()}
    return {ADAPTER_METADATA: json.dumps(prefixed, sort_keys=True)}


def sd_metadata(content: LoraContent) -> dict[str, str]:
    """Write the entries by which programs tell Stable Diffusion 1 from 2.

    The U-Net of version 2 projects by linear layers, that of version 1 by convolutions.
    """
    is_v2 = bool(_config(content.model, "use_linear_projection"))
    scheduler = getattr(content.model.pipe, "scheduler", None)
    kind = getattr(scheduler, "config", {}).get("prediction_type")
    predicts_velocity = kind == "v_prediction"
    version = ("sd_v2" if is_v2 else "sd_v1") + ("_v" if predicts_velocity else "")
    second = "stable-diffusion-v2-768-v" if predicts_velocity else "stable-diffusion-v2-512"
    architecture = second if is_v2 else "stable-diffusion-v1"
    return _kohya_metadata(content, version, architecture, "networks.lora", is_v2=is_v2)


def sdxl_metadata(content: LoraContent) -> dict[str, str]:
    """Write the entries by which programs recognize Stable Diffusion XL."""
    return _kohya_metadata(
        content, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base", "networks.lora"
    )


def sd3_metadata(content: LoraContent) -> dict[str, str]:
    """Write the entries for Stable Diffusion 3 and 3.5.

    Only 3.5 normalizes queries and keys, and only its medium size has a second attention.
    """
    if not _config(content.model, "qk_norm"):
        version, architecture = "sd3_medium", "stable-diffusion-3-medium"
    elif _config(content.model, "dual_attention_layers"):
        version, architecture = "sd3.5_medium", "stable-diffusion-3-5-medium"
    else:
        version, architecture = "sd3.5_large", "stable-diffusion-3-5-large"
    return _kohya_metadata(content, version, architecture, "networks.lora_sd3")


def flux_metadata(content: LoraContent) -> dict[str, str]:
    """Write the entries for Flux; only the dev model embeds guidance."""
    kind = "dev" if _config(content.model, "guidance_embeds") else "schnell"
    return {
        **_kohya_metadata(content, "flux1", f"flux-1-{kind}", "networks.lora_flux"),
        "modelspec.implementation": _FLUX_IMPLEMENTATION,
    }


def is_sd(model: Model) -> bool:
    """Tell the U-Net of Stable Diffusion 1 and 2, which reads one text and a time, from others."""
    return isinstance(model.denoiser, UNet2DConditionModel) and not _config(
        model, "addition_embed_type"
    )


def is_sdxl(model: Model) -> bool:
    """Tell the U-Net of Stable Diffusion XL, which embeds pooled texts and sizes, from others."""
    return (
        isinstance(model.denoiser, UNet2DConditionModel)
        and _config(model, "addition_embed_type") == "text_time"
    )


def is_sd3(model: Model) -> bool:
    """Tell whether the denoiser is that of Stable Diffusion 3 or 3.5."""
    return isinstance(model.denoiser, SD3Transformer2DModel)


def is_flux(model: Model) -> bool:
    """Tell whether the denoiser is that of Flux."""
    return isinstance(model.denoiser, FluxTransformer2DModel)


def _config(model: Model, name: str) -> object:
    return getattr(model.denoiser, "config", {}).get(name)


def _kohya_metadata(
    content: LoraContent, version: str, architecture: str, module: str, *, is_v2: bool = False
) -> dict[str, str]:
    return {
        "ss_output_name": content.stem,
        "ss_base_model_version": version,
        "ss_v2": str(is_v2),
        "ss_network_module": module,
        "ss_network_dim": str(content.rank),
        "ss_network_alpha": str(float(content.rank)),
        "modelspec.architecture": f"{architecture}/lora",
    }
