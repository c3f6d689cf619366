from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AuraFlowTransformer2DModel,
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    HeunDiscreteScheduler,
    KarrasVeScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    TCDScheduler,
    UNet2DModel,
)

from architectures import make
from conftest import make_pipeline
from unmemorize import (
    Model,
    ModelError,
    compute_statistics,
    generate,
    load_pipeline,
)
from unmemorize.pipelines import sampler, select_value_layers
from unmemorize.pipelines._value_layers import find_value_layers


def test_value_layers_come_in_the_order_of_execution(pipe: DiffusionPipeline) -> None:
    ran: list[str] = []
    model = Model(pipe)
    handles = [
        layer.register_forward_hook(lambda *_, path=path: ran.append(path))
        for path, layer in model.value_layers.items()
    ]
    model.predict(model.draw_latents(1, 0), torch.tensor(1), model.encode(["x"]))
    for handle in handles:
        handle.remove()
    assert ran == list(model.value_layers)


def test_scopes(pipe: DiffusionPipeline) -> None:
    layers = find_value_layers(pipe.unet)
    assert select_value_layers(layers, "all") == layers
    assert {path.split(".")[0] for path in select_value_layers(layers)} == {
        "down_blocks",
        "mid_block",
    }
    assert list(select_value_layers(layers, "mid_block*")) == [
        path for path in layers if path.startswith("mid_block")
    ]
    with pytest.raises(ModelError, match="no value layer matches"):
        select_value_layers(layers, "nothing*")


def test_models_without_value_layers_are_refused() -> None:
    unet = UNet2DModel(
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    with pytest.raises(ModelError, match="no value layer found"):
        find_value_layers(unet)
    with pytest.raises(ModelError, match=r"no value layer found.*--value-layers PATTERN"):
        Model(DDIMPipeline(unet, DDIMScheduler()))


def test_value_layers_can_be_named(pipe: DiffusionPipeline) -> None:
    all_layers = list(find_value_layers(pipe.unet))
    named = Model(pipe, value_layers="mid_block.*.attn2.to_v")
    assert list(named.value_layers) == [path for path in all_layers if path.startswith("mid_block")]
    with pytest.raises(ModelError, match=r"Looked for linear layers nowhere.\*"):
        Model(pipe, value_layers="nowhere.*")
    assert list(Model(pipe).value_layers) == all_layers


def test_single_stream_blocks_count_where_the_text_is_apart() -> None:
    """AuraFlow puts registers before the text in its single-stream blocks.

    Therefore the first rows there are not the text.
    """
    denoiser = AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
    )
    assert list(find_value_layers(denoiser)) == ["joint_transformer_blocks.0.attn.add_v_proj"]


def test_pipelines_that_take_no_prompt_are_refused(pipe: DiffusionPipeline) -> None:
    inpainting = StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)
    with pytest.raises(
        ModelError, match=r"fails before its first denoising step.*called with a prompt alone"
    ):
        _ = Model(inpainting).layout


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_difference_is_the_papers_up_to_the_documented_term(
    pipe: DiffusionPipeline, kind: str
) -> None:
    """The same clean image, predicted in each way, against the paper's formula in float64."""
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    model, timestep = Model(pipe), torch.tensor(961)
    alpha = float(pipe.scheduler.alphas_cumprod[961]) ** 0.5
    sigma = (1 - alpha**2) ** 0.5
    noise, clean = model.draw_latents(2, 0).double(), torch.randn(2, 4, 16, 16, dtype=torch.float64)
    predicted = (noise - alpha * clean) / sigma
    prediction = {
        "epsilon": predicted,
        "v_prediction": alpha * predicted - sigma * clean,
        "sample": clean,
    }[kind]
    paper = predicted - noise
    found = model.difference(prediction.float(), noise.float(), timestep).double()
    if kind == "epsilon":
        torch.testing.assert_close(found, paper, rtol=0, atol=1e-5)
    else:
        torch.testing.assert_close(
            alpha / sigma * found, paper - (1 - sigma) / sigma * noise, rtol=0, atol=1e-5
        )


def test_the_difference_of_flow_matching_is_the_negative_clean_image() -> None:
    model, level = Model(make("Flux")), 0.987
    noise, clean = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    start = (
        noise - (1 - level) * clean
    ) / level  # what was added to the clean image to get the noise
    found = model.difference(start - clean, noise, torch.tensor(level * 1000))
    torch.testing.assert_close(found, -clean, rtol=0, atol=1e-4)


def test_unknown_predictions_and_schedulers_are_refused(pipe: DiffusionPipeline) -> None:
    noise = Model(pipe).draw_latents(1, 0)
    pipe.scheduler = DDIMScheduler(prediction_type="flow")
    with pytest.raises(ModelError, match="prediction type flow: unknown"):
        Model(pipe).difference(noise, noise, torch.tensor(9))
    with pytest.raises(ModelError, match="prediction type flow: unknown"):
        generate(pipe, "x")
    pipe.scheduler = KarrasVeScheduler()
    with pytest.raises(ModelError, match="neither flow matching nor a diffusion over steps"):
        Model(pipe).difference(noise, noise, torch.tensor(9))


@pytest.mark.parametrize(
    "scheduler",
    [FlowMatchLCMScheduler(), FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)],
)
def test_flows_with_noise_from_no_seed_are_refused(scheduler: Any) -> None:
    pipe = make("Stable Diffusion 3")
    pipe.scheduler = scheduler
    with pytest.raises(ModelError, match=r"new noise at each step.* FlowMatchEulerDiscrete"):
        generate(pipe, "x")


def test_nan_weights_are_refused(pipe: DiffusionPipeline) -> None:
    path, layer = next(iter(Model(pipe).value_layers.items()))
    layer.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=f"weights of {path} hold NaN"):
        Model(pipe)


def test_nan_output_is_refused(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    pipe.unet.conv_out.bias.data[0] = float("inf")
    with pytest.raises(ModelError, match="returns NaN or infinity"):
        model.predict(model.draw_latents(1, 0), torch.tensor(1), model.encode(["x"]))


def test_a_schedule_without_clipping_stays_without() -> None:
    """DDIM clips by default; schedulers that cannot clip say nothing about it."""
    assert sampler(make("PixArt")).config.clip_sample is False
    pipe = make_pipeline()
    pipe.scheduler = EulerDiscreteScheduler()
    assert sampler(pipe).config.clip_sample is False
    pipe.scheduler = DDIMScheduler(clip_sample=True)
    assert sampler(pipe).config.clip_sample is True


def test_encoding_shows_no_progress_bar(
    pipe: DiffusionPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe.set_progress_bar_config(desc="mine")
    Model(pipe).encode(["x"])
    assert capsys.readouterr().err == ""
    assert pipe._progress_bar_config == {"desc": "mine"}
    del pipe._progress_bar_config
    Model(pipe).encode(["x"])
    assert not pipe._progress_bar_config


class InvertedTime(StableDiffusionPipeline):  # type: ignore[misc]
    """Counts time upwards, as Lumina does."""

    highest = 1000

    def __call__(self, prompt: list[str], num_inference_steps: int) -> None:
        self.scheduler.set_timesteps(num_inference_steps)
        count = len(prompt)
        time = 1 - self.scheduler.timesteps[0] / self.highest
        self.unet(torch.zeros(count, 4, 16, 16), time.expand(count), torch.zeros(count, 16, 16))


@pytest.mark.parametrize("highest", [1000, 501])
def test_a_denoiser_with_another_time_is_refused(pipe: DiffusionPipeline, highest: int) -> None:
    inverted = InvertedTime(**pipe.components, requires_safety_checker=False)
    inverted.highest = highest
    with pytest.raises(ModelError, match="no multiple of the scheduler's timestep"):
        _ = Model(inverted).layout


def test_latents_are_one_draw_of_a_cpu_generator(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    expected = torch.randn((3, 4, 16, 16), generator=torch.Generator().manual_seed(5))
    assert torch.equal(model.draw_latents(3, 5), expected)
    assert torch.equal(model.draw_latents(3, 7, 5)[3:], expected)
    assert torch.equal(model.draw_latents(3, 7, 5)[:3], model.draw_latents(3, 7))


def test_timesteps_do_not_depend_on_the_loaded_scheduler(pipe: DiffusionPipeline) -> None:
    before = Model(pipe).timesteps(50)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert torch.equal(Model(pipe).timesteps(50), before)
    assert before[:2].tolist() == [981, 961]


def test_loading_saved_pipelines(tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path / "model")
    pipe = load_pipeline(str(tmp_path / "model"), device="cpu", local_files_only=True)
    assert isinstance(pipe, StableDiffusionPipeline)
    assert Model(pipe).fingerprint == Model(make_pipeline()).fingerprint
    assert Model(pipe).name == "model"


def test_devices_and_dtypes_of_torch_are_taken() -> None:
    model = Model.load("testbed", device=torch.device("cpu"), dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.loading is not None
    assert (model.loading.device, model.loading.dtype) == ("cpu", "bfloat16")
    pipe = load_pipeline("testbed", device=torch.device("cpu"), dtype=torch.float32)
    assert Model(pipe).dtype == torch.float32
    wrong: Any = 3
    for call in (load_pipeline, Model.load):
        with pytest.raises(ModelError, match="3: a value of type int, not a device or dtype"):
            call("testbed", device=wrong)
    with pytest.raises(ModelError, match=r"dtype 'int8': unknown"):
        load_pipeline("testbed", dtype=torch.int8)


def test_a_device_that_is_not_there_is_named_with_a_way_out() -> None:
    with pytest.raises(ModelError, match=r'--device cpu, or device="cpu" in Python\.'):
        load_pipeline("testbed", device="cuda:99")


def test_loading_errors_name_the_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the model cannot be loaded"):
        load_pipeline(str(tmp_path), device="cpu", local_files_only=True)
    for index in (
        "[]",
        '{"_class_name": 3}',
        '{"_class_name": "StableDiffusionPipeline", "unet": 5}',
        '{"unet": ["diffusers"]}',
    ):
        (tmp_path / "damaged").mkdir(exist_ok=True)
        (tmp_path / "damaged" / "model_index.json").write_text(index)
        with pytest.raises(ModelError, match="the model cannot be loaded"):
            load_pipeline(str(tmp_path / "damaged"), device="cpu", local_files_only=True)
    make_pipeline().save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(ModelError, match="Its weights are pickles, which can run code"):
        load_pipeline(str(tmp_path / "pickled"), device="cpu", local_files_only=True)
    with pytest.raises(ModelError, match="dtype 'int3': unknown"):
        load_pipeline("testbed", dtype="int3")
    with pytest.raises(ModelError, match="device cuda:77"):
        load_pipeline("testbed", device="cuda:77", dtype="float32")


SCHEDULERS = (
    DDPMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
    PNDMScheduler,
)


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of NumPy, in diffusers
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_noise_schedule_is_that_of_the_loaded_scheduler(
    pipe: DiffusionPipeline, kind: Any, tmp_path: Path
) -> None:
    """Each scheduler has its own defaults, which differ from those of DDIM."""
    pipe.scheduler = kind()
    ours = sampler(pipe)
    torch.testing.assert_close(ours.alphas_cumprod, pipe.scheduler.alphas_cumprod)
    assert ours.config.clip_sample == pipe.scheduler.config.get("clip_sample", False)
    pipe.scheduler.save_pretrained(tmp_path)
    pipe.scheduler = kind.from_pretrained(tmp_path)
    torch.testing.assert_close(sampler(pipe).alphas_cumprod, ours.alphas_cumprod)
    assert sampler(pipe).config.clip_sample == ours.config.clip_sample


def test_a_pipeline_in_another_type_is_observed_again() -> None:
    """Flux is given its timestep in the type of the model, whatever stays in float32."""
    pipe = make("Flux")
    model = Model(pipe)
    first, _ = next(pipe.transformer.named_parameters())
    pipe.transformer._keep_in_fp32_modules = [first]
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        pipe.to(dtype)
        kept = pipe.transformer.get_parameter(first)
        kept.data = kept.data.float()
        assert model.layout.dtype == dtype


@pytest.mark.parametrize("pattern", ["*attn1.to_v", "time_embedding.*"])
def test_named_layers_must_see_the_text(pipe: DiffusionPipeline, pattern: str) -> None:
    with pytest.raises(ModelError, match="so it is no value layer"):
        compute_statistics(Model(pipe, value_layers=pattern), ["one", "two"])


@pytest.mark.parametrize("scale", [3.0, -1.0])
def test_guidance_leads_from_the_unconditional_to_the_conditional_prediction(
    pipe: DiffusionPipeline, scale: float
) -> None:
    model = Model(pipe)
    latents, timestep = model.draw_latents(2, 0), torch.tensor(961)
    conditional = model.predict(latents, timestep, model.encode(["one", "two"]))
    unconditional = model.predict(latents, timestep, model.encode(["", ""]))
    assert not torch.allclose(conditional, unconditional, atol=1e-2)
    guided = model.predict(
        latents, timestep, model.encode(["one", "two"]), guidance=model.guidance(scale)
    )
    expected = unconditional + scale * (conditional - unconditional)
    torch.testing.assert_close(guided, expected, rtol=0, atol=1e-4)


def test_guidance_of_zero_is_none(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    assert model.guidance(0.0) is None
    guidance = model.guidance(1.0)
    assert guidance is not None
    assert len(guidance.unconditional) == 1


def test_the_last_few_results_are_remembered(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    made: list[int] = []

    def remembered(key: int) -> int:
        def make() -> int:
            made.append(key)
            return 10 * key

        return model.remembered(key, make)

    assert [remembered(key) for key in (1, 2, 1)] == [10, 20, 10]
    assert made == [1, 2]
    for key in range(3, 14):  # with 1, which was used last, as many as are remembered
        remembered(key)
    made.clear()
    assert [remembered(key) for key in (1, 2)] == [10, 20]
    assert made == [2]
