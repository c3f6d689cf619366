"""Live pipelines: compiled, offloaded, sliced, adapted, in half precision."""

from __future__ import annotations

import accelerate
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from conftest import PLANTED_PROMPT, PROMPTS, make_pipeline, plant_neuron
from unmemorize import (
    GenerationSettings,
    Model,
    Neurons,
    NoiseSettings,
    apply,
    calibrate_threshold,
    compute_statistics,
    generate,
    localize,
    remove,
    switched_off,
)
from unmemorize.detection import make_probe, noise_differences
from unmemorize.pipelines import denoiser_of, uncompiled
from unmemorize.statistics import activations

SETTINGS = NoiseSettings(seeds=3)


def output(pipe: DiffusionPipeline) -> Tensor:
    """What generation makes of a prompt, before any decoding."""
    latents = Model(pipe).draw_latents(1, 0)
    found: Tensor = pipe(
        "a prompt", latents=latents, num_inference_steps=2, guidance_scale=1.0, output_type="latent"
    ).images
    return found


def everything(pipe: DiffusionPipeline) -> Neurons:
    return Neurons({path: range(width) for path, width in Model(pipe).widths.items()})


def located(pipe: DiffusionPipeline) -> Neurons:
    statistics = compute_statistics(pipe, PROMPTS)
    threshold = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS, deviations=3)
    return localize(pipe, PLANTED_PROMPT, statistics=statistics, threshold=threshold).neurons


def untouched(pipe: DiffusionPipeline) -> bool:
    """No hook is left, and no replaced forward but those of accelerate."""
    modules = list(denoiser_of(pipe).modules())
    plain = all("forward" not in vars(module) or hasattr(module, "_hf_hook") for module in modules)
    return plain and not any(
        module._forward_hooks or module._forward_pre_hooks for module in modules
    )


@pytest.fixture
def expected() -> tuple[Tensor, Tensor, Neurons]:
    """Output of the plain pipeline, the same with everything off, and what localization finds."""
    pipe = make_pipeline()
    plant_neuron(pipe, next(iter(Model(pipe).value_layers)), 3)
    with switched_off(pipe, everything(pipe)):
        off = output(pipe)
    found = located(pipe)
    assert found
    return output(pipe), off, found


@pytest.mark.parametrize("in_place", [False, True])
def test_compiled(
    planted: DiffusionPipeline, expected: tuple[Tensor, Tensor, Neurons], in_place: bool
) -> None:
    """A compiled denoiser ignores later hooks; with neurons off it runs uncompiled, and is compiled again afterwards."""
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> object:
        calls.append(1)
        return graph.forward

    if in_place:
        planted.unet.compile(backend=backend)
    else:
        planted.unet = torch.compile(planted.unet, backend=backend)
    held = planted.unet
    before, off, found = expected
    torch.testing.assert_close(output(planted), before)
    assert calls
    with switched_off(planted, everything(planted)):
        torch.testing.assert_close(output(planted), off)
    apply(planted, Neurons())
    apply(planted, everything(planted))
    torch.testing.assert_close(output(planted), off)
    remove(planted)
    assert located(planted) == found
    assert planted.unet is held
    assert planted.config["unet"] == ("diffusers", "UNet2DConditionModel") or not in_place
    torch.testing.assert_close(output(planted), before)
    assert untouched(planted)
    torch._dynamo.reset()


def test_the_compiled_denoiser_comes_back_after_an_exception(pipe: DiffusionPipeline) -> None:
    pipe.unet._compiled_call_impl = pipe.unet._call_impl

    def fail() -> None:
        with uncompiled(pipe):
            assert pipe.unet._compiled_call_impl is None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert pipe.unet._compiled_call_impl == pipe.unet._call_impl


def test_offloaded(planted: DiffusionPipeline, expected: tuple[Tensor, Tensor, Neurons]) -> None:
    """Weights come when a module runs and go afterwards, as with sequential offload; here to the same device."""
    plain = Model(planted).fingerprint
    accelerate.cpu_offload(planted.unet, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in planted.unet.parameters())
    before, off, found = expected
    assert Model(planted).fingerprint == plain
    with switched_off(planted, everything(planted)):
        torch.testing.assert_close(output(planted), off)
    assert located(planted) == found
    torch.testing.assert_close(output(planted), before)
    assert untouched(planted)


class _Moved:
    """Weights that come to the device and go again around each forward, as new tensors: what model offload does between two devices."""

    def __init__(self, module: nn.Module) -> None:
        self._forward, self._module = module.forward, module

    def __call__(self, *args: object, **kwargs: object) -> object:
        for parameter in self._module.parameters():
            parameter.data = parameter.data.clone()
        return self._forward(*args, **kwargs)


@pytest.mark.parametrize("inference", [False, True])
def test_moved_weights_can_be_differentiated(
    planted: DiffusionPipeline, expected: tuple[Tensor, Tensor, Neurons], inference: bool
) -> None:
    planted.unet.requires_grad_(True)
    planted.unet.forward = _Moved(planted.unet)
    model = Model(planted)
    text = model.encode(["x"])
    activations(model, text)
    model.predict(model.draw_latents(1, 0), model.timesteps(50)[1], text)
    assert not any(parameter.is_inference() for parameter in planted.unet.parameters())
    statistics = compute_statistics(planted, PROMPTS)
    threshold = calibrate_threshold(planted, PROMPTS, settings=SETTINGS, deviations=3)
    with torch.inference_mode(inference):
        assert (
            localize(planted, PLANTED_PROMPT, statistics=statistics, threshold=threshold).neurons
            == expected[2]
        )
    model = Model(planted)
    probe = make_probe(model, model.encode([PLANTED_PROMPT]), SETTINGS)
    assert noise_differences(model, probe, gradient=True).requires_grad
    assert all(parameter.requires_grad for parameter in planted.unet.parameters())


def test_model_offload_frees_the_denoiser_before_text_is_encoded(
    planted: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else both are on the device at once: the pipeline frees them at its end, which is never reached."""
    freed: list[object] = []
    monkeypatch.setattr(
        planted, "maybe_free_model_hooks", lambda: freed.append(planted.unet), raising=False
    )
    Model(planted).encode(["x"])
    assert freed
    assert all(denoiser is planted.unet for denoiser in freed)


def test_activations_of_an_offloaded_model_are_the_same(planted: DiffusionPipeline) -> None:
    model = Model(planted)
    text = model.encode(["a prompt", "another"])
    before = activations(model, text)
    accelerate.cpu_offload_with_hook(planted.unet, execution_device=torch.device("cpu"))
    after = activations(model, text)
    assert all(torch.equal(before[path], after[path]) for path in model.value_layers)


def test_sliced(planted: DiffusionPipeline, expected: tuple[Tensor, Tensor, Neurons]) -> None:
    planted.enable_attention_slicing(1)
    before, off, found = expected
    with switched_off(planted, everything(planted)):
        torch.testing.assert_close(output(planted), off, rtol=0, atol=1e-3)
    assert located(planted) == found
    torch.testing.assert_close(output(planted), before, rtol=0, atol=1e-3)
    assert untouched(planted)


def test_half_precision(
    planted: DiffusionPipeline, expected: tuple[Tensor, Tensor, Neurons]
) -> None:
    planted.to(torch.bfloat16)
    with switched_off(planted, everything(planted)):
        off = output(planted).float()
    assert (
        float((off - expected[1]).norm() / expected[1].norm())
        < 0.05
        < float((off - expected[0]).norm() / expected[0].norm())
    )
    assert expected[2] & located(planted)
    assert untouched(planted)


def test_nothing_is_left_when_the_pipeline_fails(planted: DiffusionPipeline) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    handle = planted.unet.mid_block.register_forward_hook(fail)
    scheduler = planted.scheduler
    for attempt in (
        lambda: located(planted),
        lambda: generate(planted, "x", everything(planted), settings=GenerationSettings(images=1)),
    ):
        with pytest.raises(KeyboardInterrupt):
            attempt()
        assert planted.scheduler is scheduler
    handle.remove()
    assert untouched(planted)
    assert isinstance(planted.unet, nn.Module)
