"""Pipelines with denoisers of full size and random weights, from their published configs.

They serve to measure costs, which do not depend on weights.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

_LETTERS = [chr(code) for code in range(ord("0"), ord("z") + 1)]
_WORDS = ["<|startoftext|>", "<|endoftext|>", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]


_SD_1: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
_SD_XL: dict[str, Any] = {
    "sample_size": 64,
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
        return UNet2DConditionModel(layers_per_block=2, **_SD_XL)


def stable_diffusion_1() -> StableDiffusionPipeline:
    """Make the U-Net of Stable Diffusion 1.4 (3.4 GB in float32) with a two-layer text encoder."""
    unet = _filled(**_SD_1)
    pipe = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text(768)).eval(),
        tokenizer=_tokenizer(),
        unet=unet,
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion_xl() -> StableDiffusionXLPipeline:
    """Make the U-Net of Stable Diffusion XL (10 GB in float32) with two-layer text encoders.

    Its latents are 64 x 64.
    """
    unet = _filled(**_SD_XL)
    pipe = StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text(768)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_text(1280)).eval(),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=unet,
        scheduler=_scheduler(),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _filled(**config: Any) -> UNet2DConditionModel:
    """Made without weights and filled in place, so that they are in memory once."""
    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel(layers_per_block=2, **config)
    unet = unet.to_empty(device="cpu").requires_grad_(False)
    for name, parameter in unet.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):
            torch.nn.init.ones_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=0.02)
    return unet.eval()


def _text(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        vocab_size=len(_WORDS),
        bos_token_id=0,
        eos_token_id=1,
    )


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(_WORDS)}, merges=[], model_max_length=77
    )


def _vae() -> AutoencoderKL:
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, down_block_types=down, up_block_types=up
    ).eval()


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
