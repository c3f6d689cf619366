"""What cannot be worked with is refused at the start, with the reason and the way out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    DDIMScheduler,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    Lumina2Transformer2DModel,
    StableDiffusionPipeline,
    TCDScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.hooks import (
    LayerSkipConfig,
    apply_first_block_cache,
    apply_layer_skip,
    apply_layerwise_casting,
)

from architectures import make, t5
from conftest import PROMPTS, make_pipeline, with_perturbed_attention
from unmemorize import (
    GenerationSettings,
    Model,
    ModelError,
    NoiseSettings,
    calibrate_threshold,
    compute_statistics,
    generate,
)
from unmemorize.pipelines import run
from unmemorize.pipelines._conditioning import layout_of
from unmemorize.pipelines._value_layers import find_value_layers


def test_video_pipelines_are_refused() -> None:
    tokenizer, encoder = t5()
    pipe = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            text_dim=16,
            ffn_dim=16,
            num_layers=1,
            freq_dim=8,
        ),
    )
    with pytest.raises(ModelError, match=r"WanPipeline: it makes videos\. Load a pipeline that"):
        compute_statistics(pipe, PROMPTS)


class OtherLatents(StableDiffusionPipeline):  # type: ignore[misc]
    """Passes latents of another shape to its denoiser."""

    shape: tuple[int, ...] = (4, 1, 16, 16)

    def __call__(self, prompt: list[str], num_inference_steps: int) -> None:
        self.scheduler.set_timesteps(num_inference_steps)
        count = len(prompt)
        time = self.scheduler.timesteps[0]
        self.unet(torch.zeros(count, *self.shape), time, torch.zeros(count, 16, 16))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 1, 16, 16), "as those of videos have"),
        ((60, 16), "no patches of 2 x 2 of a square image"),
        ((64, 15), "no patches of 2 x 2 of a square image"),
    ],
)
def test_latents_of_other_shapes_are_refused(shape: tuple[int, ...], message: str) -> None:
    pipe = OtherLatents(**make_pipeline().components, requires_safety_checker=False)
    pipe.shape = shape
    with pytest.raises(ModelError, match=message):
        layout_of(pipe)


def test_a_denoiser_that_waits_for_a_mask_is_refused() -> None:
    with pytest.raises(ModelError, match=r"takes 9 channels and predicts 4.*image with a mask"):
        compute_statistics(make_pipeline(in_channels=9), PROMPTS)


def test_joint_projections_are_refused_with_the_reason() -> None:
    denoiser = Lumina2Transformer2DModel(
        sample_size=16,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=8,
        cap_feat_dim=8,
        axes_dim_rope=(8, 8, 8),
    )
    with pytest.raises(ModelError, match="projects text and image together") as refusal:
        find_value_layers(denoiser)
    assert "--value-layers" not in str(refusal.value)


class IPAdapterAttnProcessor(torch.nn.Module):
    """Bears the name of an adapter that reads images."""


def test_an_adapter_that_waits_for_an_image_is_refused() -> None:
    pipe = make_pipeline()
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    attention.set_processor(IPAdapterAttnProcessor())
    with pytest.raises(ModelError, match=r"needs an image beside.*unload_ip_adapter"):
        compute_statistics(pipe, PROMPTS)


def test_caches_are_refused_whenever_they_are_enabled() -> None:
    pipe = make("Flux")
    model, few = Model(pipe), GenerationSettings(images=1, steps=2, guidance=1.0)
    text, timestep, noise = model.encode(["a"]), model.timesteps(4)[1], model.draw_latents(1, 1)
    before = model.predict(noise, timestep, text)
    refused = r"cache is enabled.*Call pipe\.transformer\.disable_cache\(\) first"
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.3))
    for run_it in (
        lambda: Model(pipe),
        lambda: generate(model, "a", settings=few),
        lambda: model.encode(["a"]),
    ):
        with pytest.raises(ModelError, match=refused):
            run_it()
    pipe.transformer.disable_cache()
    assert torch.equal(Model(pipe).predict(noise, timestep, text), before)


def test_hooks_that_change_predictions_are_refused_and_those_of_weights_are_not() -> None:
    pipe = make("Flux")
    model = Model(pipe)
    apply_layerwise_casting(pipe.transformer, torch.float32, torch.float32)
    model.encode(["a"])
    apply_layer_skip(pipe.transformer, LayerSkipConfig([0], fqn="transformer_blocks"))
    with pytest.raises(ModelError, match=r"layer_skip_hook on transformer\.transformer_blocks\.0"):
        model.encode(["a"])

    pipe = make("Flux")
    model = Model(pipe)
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig(threshold=0.3))
    with pytest.raises(ModelError, match=r"the hook fbc_leader_block_hook on transformer\."):
        model.encode(["a"])


def test_free_u_is_refused_whenever_it_is_enabled() -> None:
    pipe = make_pipeline()
    model = Model(pipe)
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    for run_it in (lambda: compute_statistics(pipe, PROMPTS), lambda: model.encode(["a"])):
        with pytest.raises(ModelError, match=r"FreeU is enabled.*pipe\.disable_freeu\(\)"):
            run_it()
    pipe.disable_freeu()
    assert Model(pipe).fingerprint == model.fingerprint


def test_a_tokenizer_without_a_limit_is_named() -> None:
    pipe = make_pipeline()
    pipe.tokenizer.model_max_length = int(1e30)
    with pytest.raises(ModelError, match=r"pipe\.tokenizer\.model_max_length = 77"):
        compute_statistics(pipe, PROMPTS)


def test_perturbed_attention_takes_no_part() -> None:
    pipe = with_perturbed_attention(make_pipeline())
    before = dict(pipe.unet.attn_processors)
    model, expected = Model(pipe), Model(make_pipeline())
    text, timestep = model.encode(["one", "two"]), model.timesteps(50)[1]
    assert pipe.unet.attn_processors == before
    latents = expected.draw_latents(2, 1)
    assert torch.equal(
        model.predict(latents, timestep, text), expected.predict(latents, timestep, text)
    )
    assert model.fingerprint == expected.fingerprint


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_default_type_of_torch_does_not_count(dtype: torch.dtype) -> None:
    plain, model = Model(make_pipeline()), Model(make_pipeline())
    expected = predicted(plain)
    statistics = compute_statistics(plain, PROMPTS)
    torch.set_default_dtype(dtype)
    try:
        found = predicted(model)
        again = compute_statistics(model, PROMPTS)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)
    for layer, mean in statistics.mean.items():
        assert torch.equal(again.mean[layer], mean)


def predicted(model: Model) -> torch.Tensor:
    latents = model.draw_latents(2, 1)
    return model.predict(latents, model.timesteps(50)[1], model.encode(["one", "two"]))


@pytest.mark.parametrize("kind", [LCMScheduler, TCDScheduler])
def test_schedulers_with_more_settings_do_not_warn(
    kind: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = make_pipeline()
    pipe.scheduler = kind()
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    model = Model(pipe)
    caplog.clear()
    model.encode(["one"])
    assert not caplog.records


def without_signal(**settings: Any) -> Any:
    pipe = make_pipeline()
    pipe.scheduler = DDIMScheduler(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, **settings
    )
    return pipe


def test_images_that_predicted_noise_cannot_reach() -> None:
    """The way out is another schedule, not another type, and it leads out."""
    settings = GenerationSettings(images=1, steps=2, guidance=1.0)
    with pytest.raises(ModelError, match=r"holds NaN\. Its noise schedule.*rescale_betas") as error:
        generate(without_signal(), "one", settings=settings)
    assert "float32" not in str(error.value)
    pipe = without_signal()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="leading")
    assert len(generate(pipe, "one", settings=settings)) == 1
    assert len(generate(without_signal(prediction_type="v_prediction"), "one", settings=settings))


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [(torch.float16, "Load it with --dtype float32"), (torch.float32, "Load another checkpoint")],
)
def test_the_remedy_fits_the_type(dtype: torch.dtype, remedy: str) -> None:
    pipe = make_pipeline().to(dtype)
    assert remedy in Model(pipe).remedy


class Unguided(StableDiffusionPipeline):  # type: ignore[misc]
    """Has no guidance."""

    def __call__(self, prompt: list[str]) -> list[str]:
        return prompt


def test_guidance_is_used_under_its_name_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Unguided(**make_pipeline().components, requires_safety_checker=False)
    assert run(pipe, ["one"], 1.0) == ["one"]
    with pytest.raises(ModelError, match=r"no guidance_scale\. Use --guidance 1"):
        run(pipe, ["one"], 7.0)
    qwen = Model(make("Qwen-Image"))
    settings = GenerationSettings(images=1, steps=2, guidance=1.0)
    strong = GenerationSettings(images=1, steps=2, guidance=9.0)
    assert generate(qwen, "one", settings=settings) != generate(qwen, "one", settings=strong)
    calls: list[int] = []
    qwen.denoiser.register_forward_hook(lambda *_: calls.append(1))
    generate(qwen, "one", settings=strong)
    assert len(calls) == 4  # two steps, each with the prompt and with the empty one
    with pytest.raises(ModelError, match=r"encodes prompts at their own lengths.*guidance 0"):
        calibrate_threshold(qwen, PROMPTS, settings=NoiseSettings(guidance=2.0))
