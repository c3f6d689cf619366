"""Tiny random pipelines of every supported architecture, built from the real classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    IFPipeline,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
_CLIP_WORDS = [
    "<|startoftext|>",
    "<|endoftext|>",
    *LETTERS,
    *(f"{letter}</w>" for letter in LETTERS),
]


def clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(_CLIP_WORDS)},
        merges=[],
        model_max_length=16,
    )


def clip_config(**change: Any) -> CLIPTextConfig:
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }
    tokens = {
        "vocab_size": len(_CLIP_WORDS),
        "max_position_embeddings": 16,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    return CLIPTextConfig(**{**sizes, **tokens, **change})


def t5() -> tuple[T5Tokenizer, T5EncoderModel]:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS, *(f"▁{letter}" for letter in LETTERS)]
    tokenizer = T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)
    config = T5Config(
        vocab_size=len(pieces),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    return tokenizer, T5EncoderModel(config)


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, sample_size=16, shift_factor=0.1
    )


def unet(**change: Any) -> UNet2DConditionModel:
    sizes = {
        "sample_size": 16,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**sizes, **change})


def ddim(**change: Any) -> DDIMScheduler:
    options = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "steps_offset": 1,
    }
    return DDIMScheduler(**{**options, **change})


def stable_diffusion(
    scheduler: DDIMScheduler | None = None, **change: Any
) -> StableDiffusionPipeline:
    """16 x 16 latents, 7 value layers of 8 or 16 neurons."""
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(),
        unet=unet(**change),
        scheduler=scheduler or ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_2() -> StableDiffusionPipeline:
    return stable_diffusion(ddim(prediction_type="v_prediction"), use_linear_projection=True)


def stable_diffusion_xl() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(clip_config()),
        text_encoder_2=CLIPTextModelWithProjection(clip_config()),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2),
        ),
        scheduler=ddim(),
        add_watermarker=False,
    )


def deepfloyd_if() -> IFPipeline:
    tokenizer, encoder = t5()
    return IFPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        unet=unet(
            in_channels=3,
            out_channels=6,
            block_out_channels=(32, 64),
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            encoder_hid_dim=16,
            encoder_hid_dim_type="text_proj",
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            cross_attention_norm="group_norm",
            resnet_time_scale_shift="scale_shift",
            act_fn="gelu",
            cross_attention_dim=32,
        ),
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def pixart() -> PixArtAlphaPipeline:
    tokenizer, encoder = t5()
    return PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=vae(),
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=3,
            cross_attention_dim=16,
            sample_size=16,
            caption_channels=16,
            norm_num_groups=4,
        ),
        scheduler=DPMSolverMultistepScheduler(),
    )


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    """As 3.5, with a second attention of the image to itself."""
    tokenizer, encoder = t5()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(),
        text_encoder=CLIPTextModelWithProjection(clip_config()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config()),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=T5EncoderModel(T5Config(**{**encoder.config.to_dict(), "d_model": 32})),
        tokenizer_3=tokenizer,
    )


def flux() -> FluxPipeline:
    tokenizer, encoder = t5()
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(),
        text_encoder=CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(),
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        ),
    )
    pipe.default_sample_size = 16
    return pipe


def qwen_tokenizer() -> Qwen2Tokenizer:
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>"]
    tokenizer = Qwen2Tokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=2048
    )
    tokenizer.padding_side = "right"
    return tokenizer


def qwen_image() -> QwenImagePipeline:
    """Prompts are padded to the longest of a batch."""
    tokenizer = qwen_tokenizer()
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    pipe = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1],
            num_res_blocks=1,
            temperal_downsample=[],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        ),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(2, 2, 4),
        ),
    )
    pipe.default_sample_size = 16
    return pipe


def hunyuan_dit() -> HunyuanDiTPipeline:
    """Two text embeddings, which the denoiser joins."""
    tokenizer, encoder = t5()
    pipe = HunyuanDiTPipeline(
        vae=vae(),
        text_encoder=BertModel(
            BertConfig(
                vocab_size=len(_CLIP_WORDS),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=77,
            )
        ),
        tokenizer=clip_tokenizer(),
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
        transformer=HunyuanDiT2DModel(
            sample_size=16,
            num_layers=4,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            hidden_size=16,
            cross_attention_dim=16,
            cross_attention_dim_t5=16,
            pooled_projection_dim=8,
            activation_fn="gelu-approximate",
        ),
        scheduler=ddim(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.default_sample_size = 16
    return pipe


def sana() -> SanaPipeline:
    """Flow matching under a scheduler of diffusion."""
    tokenizer, _ = t5()
    tokenizer.padding_side = "right"
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=Gemma2Model(
            Gemma2Config(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=8,
                max_position_embeddings=1024,
            )
        ),
        vae=AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock",) * 2,
            decoder_block_types=("ResBlock",) * 2,
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            encoder_out_shortcut=False,
        ),
        transformer=SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=3,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            patch_size=1,
            sample_size=16,
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "Stable Diffusion": stable_diffusion,
    "Stable Diffusion 2": stable_diffusion_2,
    "Stable Diffusion XL": stable_diffusion_xl,
    "DeepFloyd IF": deepfloyd_if,
    "PixArt": pixart,
    "Stable Diffusion 3": stable_diffusion_3,
    "Flux": flux,
    "Qwen-Image": qwen_image,
    "HunyuanDiT": hunyuan_dit,
    "Sana": sana,
}


def make(name: str, seed: int = 0) -> Any:
    """A tiny pipeline that is ready to run."""
    torch.manual_seed(seed)
    pipe = ARCHITECTURES[name]()
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
    return pipe
