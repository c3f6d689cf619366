"""Pipelines with denoisers of full size and random weights, from their published configs.

They serve to measure costs, which do not depend on weights. By default text encoders and decoders
are small. Where memory is measured, they are as large as the published ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from unmemorize.pipelines import quiet_loading

with quiet_loading():  # pipelines warn on import if torchvision is missing
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

_LETTERS = [chr(code) for code in range(ord("0"), ord("z") + 1)]
_WORDS = ["<|startoftext|>", "<|endoftext|>", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]


_SD_1: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
_SD_XL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def meta_unet_of_stable_diffusion_1() -> UNet2DConditionModel:
    """Make the U-Net of Stable Diffusion 1 without weights, to count what it computes."""
    with torch.device("meta"):
        return UNet2DConditionModel(layers_per_block=2, **_SD_1)


def meta_unet_of_stable_diffusion_xl() -> UNet2DConditionModel:
    """Make the U-Net of Stable Diffusion XL without weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(layers_per_block=2, sample_size=64, **_SD_XL)


@dataclass(frozen=True)
class Making:
    """How a pipeline is made.

    Args:
        device, dtype: where its weights are filled, and their type.
        latents: the side of the latents. Images of 1024 pixels, as SDXL makes them, have 128.
        whole: whether text encoders and decoder have their published size, too.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    latents: int = 64
    whole: bool = False


def stable_diffusion_1(making: Making = Making()) -> StableDiffusionPipeline:
    """Make the U-Net of Stable Diffusion 1.4 (3.4 GB in float32)."""
    layers = 12 if making.whole else 2
    pipe = StableDiffusionPipeline(
        vae=_vae(making, upcast=False),
        text_encoder=_encoder(CLIPTextModel, 768, layers, making),
        tokenizer=_tokenizer(),
        unet=_filled(making, _SD_1),
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion_xl(making: Making = Making()) -> StableDiffusionXLPipeline:
    """Make the U-Net of Stable Diffusion XL (10 GB in float32)."""
    layers = (12, 32) if making.whole else (2, 2)
    pipe = StableDiffusionXLPipeline(
        vae=_vae(making, upcast=True),
        text_encoder=_encoder(CLIPTextModel, 768, layers[0], making),
        text_encoder_2=_encoder(CLIPTextModelWithProjection, 1280, layers[1], making),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=_filled(making, _SD_XL),
        scheduler=_scheduler(),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _filled(making: Making, config: dict[str, Any]) -> UNet2DConditionModel:
    """Made without weights and filled in place, so that they are in memory once."""
    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel(layers_per_block=2, **{**config, "sample_size": making.latents})
    unet = unet.to(making.dtype).to_empty(device=making.device).requires_grad_(False)
    for name, parameter in unet.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):
            torch.nn.init.ones_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=0.02)
    return unet.eval()


def _encoder(kind: Callable[[CLIPTextConfig], Any], width: int, layers: int, making: Making) -> Any:
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width if making.whole else 2048,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        vocab_size=49408 if making.whole else len(_WORDS),
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.device(making.device):
        encoder = kind(config)
    return encoder.to(making.dtype).requires_grad_(False).eval()


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(_WORDS)}, merges=[], model_max_length=77
    )


def _vae(making: Making, *, upcast: bool) -> AutoencoderKL:
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    with torch.device(making.device):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512) if making.whole else (8, 8, 8, 8),
            layers_per_block=2 if making.whole else 1,
            norm_num_groups=32 if making.whole else 4,
            down_block_types=down,
            up_block_types=up,
            force_upcast=upcast,
        )
    return vae.to(making.dtype).requires_grad_(False).eval()


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
