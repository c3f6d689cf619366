"""Live pipelines: compiled, offloaded, sliced, adapted, in half precision."""

from __future__ import annotations

from dataclasses import dataclass

import accelerate
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from conftest import PLANTED_PROMPT, PROMPTS, planted_pipeline
from unmemorize import (
    GenerationSettings,
    Model,
    Neurons,
    NoiseSettings,
    Statistics,
    Threshold,
    calibrate_threshold,
    compute_statistics,
    generate,
    localize,
    switch_off,
    switch_on,
    switched_off,
)
from unmemorize.detection import make_probe, noise_differences
from unmemorize.detection._calibration import Calibration
from unmemorize.pipelines import denoiser_of, uncompiled
from unmemorize.statistics import activations

SETTINGS = NoiseSettings(seeds=3)


def output(pipe: DiffusionPipeline) -> Tensor:
    """Generate the latents of a prompt."""
    latents = Model(pipe).draw_latents(1, 0)
    found: Tensor = pipe(
        "a prompt", latents=latents, num_inference_steps=2, guidance_scale=1.0, output_type="latent"
    ).images
    return found


def everything(pipe: DiffusionPipeline) -> Neurons:
    return Neurons({path: range(width) for path, width in Model(pipe).widths.items()})


@dataclass(frozen=True)
class Prepared:
    """What localization needs, made on a pipeline."""

    statistics: Statistics
    threshold: Threshold

    @classmethod
    def on(cls, pipe: DiffusionPipeline) -> Prepared:
        model = Model(pipe)
        return cls(
            compute_statistics(model, PROMPTS),
            calibrate_threshold(
                model, PROMPTS, settings=SETTINGS, calibration=Calibration(deviations=3)
            ),
        )

    def locate(self, pipe: DiffusionPipeline) -> Neurons:
        return localize(
            pipe, PLANTED_PROMPT, statistics=self.statistics, threshold=self.threshold
        ).neurons


@dataclass(frozen=True)
class Expected:
    """Output of the plain pipeline, the same with everything off, and what localization finds."""

    before: Tensor
    off: Tensor
    prepared: Prepared
    neurons: Neurons


def untouched(pipe: DiffusionPipeline) -> bool:
    """Tell whether no hook is left, and no replaced forward except those of accelerate."""
    modules = list(denoiser_of(pipe).modules())
    plain = all("forward" not in vars(module) or hasattr(module, "_hf_hook") for module in modules)
    return plain and not any(
        module._forward_hooks or module._forward_pre_hooks for module in modules
    )


@pytest.fixture(scope="module")
def expected() -> Expected:
    pipe = planted_pipeline()
    with switched_off(pipe, everything(pipe)):
        off = output(pipe)
    prepared = Prepared.on(pipe)
    neurons = prepared.locate(pipe)
    assert neurons
    return Expected(output(pipe), off, prepared, neurons)


@pytest.mark.parametrize("in_place", [False, True])
def test_compiled(planted: DiffusionPipeline, expected: Expected, in_place: bool) -> None:
    """A compiled denoiser ignores later hooks, so with neurons off it runs uncompiled."""
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> object:
        calls.append(1)
        return graph.forward

    if in_place:
        planted.unet.compile(backend=backend)
    else:
        planted.unet = torch.compile(planted.unet, backend=backend)
    held = planted.unet
    before, off = expected.before, expected.off
    torch.testing.assert_close(output(planted), before)
    assert calls
    with switched_off(planted, everything(planted)):
        torch.testing.assert_close(output(planted), off)
    switch_off(planted, Neurons())
    switch_off(planted, everything(planted))
    torch.testing.assert_close(output(planted), off)
    switch_on(planted)
    assert expected.prepared.locate(planted) == expected.neurons
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


def test_offloaded(planted: DiffusionPipeline, expected: Expected) -> None:
    """Weights come when a module runs and leave afterwards, here to the same device."""
    plain = Model(planted).fingerprint
    accelerate.cpu_offload(planted.unet, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in planted.unet.parameters())
    before, off = expected.before, expected.off
    assert Model(planted).fingerprint == plain
    with switched_off(planted, everything(planted)):
        torch.testing.assert_close(output(planted), off)
    assert Prepared.on(planted).locate(planted) == expected.neurons
    torch.testing.assert_close(output(planted), before)
    assert untouched(planted)


class _Moved:
    """Replaces the weights by new tensors at each forward, as model offload does."""

    def __init__(self, module: nn.Module) -> None:
        self._forward, self._module = module.forward, module

    def __call__(self, *args: object, **kwargs: object) -> object:
        for parameter in self._module.parameters():
            parameter.data = parameter.data.clone()
        return self._forward(*args, **kwargs)


@pytest.mark.parametrize("inference", [False, True])
def test_moved_weights_can_be_differentiated(
    planted: DiffusionPipeline, expected: Expected, inference: bool
) -> None:
    planted.unet.requires_grad_(True)
    planted.unet.forward = _Moved(planted.unet)
    model = Model(planted)
    text = model.encode(["x"])
    activations(model, text)
    model.predict(model.draw_latents(1, 0), model.timesteps(50)[1], text)
    assert not any(parameter.is_inference() for parameter in planted.unet.parameters())
    prepared = Prepared.on(planted)
    with torch.inference_mode(inference):
        assert prepared.locate(planted) == expected.neurons
    model = Model(planted)
    probe = make_probe(model, model.encode([PLANTED_PROMPT]), SETTINGS)
    assert noise_differences(model, probe, gradient=True).requires_grad
    assert all(parameter.requires_grad for parameter in planted.unet.parameters())


def test_model_offload_frees_the_denoiser_before_text_is_encoded(
    planted: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise both are on the device at once, since the pipeline frees it only at its end."""
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


def test_sliced(planted: DiffusionPipeline, expected: Expected) -> None:
    planted.enable_attention_slicing(1)
    before, off = expected.before, expected.off
    with switched_off(planted, everything(planted)):
        torch.testing.assert_close(output(planted), off, rtol=0, atol=1e-3)
    assert expected.prepared.locate(planted) == expected.neurons
    torch.testing.assert_close(output(planted), before, rtol=0, atol=1e-3)
    assert untouched(planted)


def test_half_precision(planted: DiffusionPipeline, expected: Expected) -> None:
    planted.to(torch.bfloat16)
    with switched_off(planted, everything(planted)):
        off = output(planted).float()
    assert (
        float((off - expected.off).norm() / expected.off.norm())
        < 0.05
        < float((off - expected.before).norm() / expected.before.norm())
    )
    assert expected.neurons & Prepared.on(planted).locate(planted)
    assert untouched(planted)


def test_nothing_is_left_when_the_pipeline_fails(
    planted: DiffusionPipeline, expected: Expected
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    handle = planted.unet.mid_block.register_forward_hook(fail)
    scheduler = planted.scheduler
    for attempt in (
        lambda: expected.prepared.locate(planted),
        lambda: generate(planted, "x", everything(planted), settings=GenerationSettings(images=1)),
    ):
        with pytest.raises(KeyboardInterrupt):
            attempt()
        assert planted.scheduler is scheduler
    handle.remove()
    assert untouched(planted)
    assert isinstance(planted.unet, nn.Module)
