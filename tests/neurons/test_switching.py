import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from architectures import make
from records import localization
from unmemorize import (
    GenerationSettings,
    LocalizationSettings,
    Model,
    ModelError,
    NeuronEdit,
    NeuronError,
    NeuronFile,
    Neurons,
    calibrate_threshold,
    compute_statistics,
    random_control,
    switch_off,
    switch_on,
    switched_off,
)
from unmemorize.neurons import scaled
from unmemorize.pipelines._conditioning import first_call


def output(pipe: DiffusionPipeline) -> Tensor:
    """One denoiser output."""
    model = Model(pipe)
    return model.predict(
        model.draw_latents(2, 1), torch.tensor(500), model.encode(["a prompt", "another"])
    )


@pytest.fixture
def neurons(pipe: DiffusionPipeline) -> Neurons:
    first, *_, last = Model(pipe).value_layers
    return Neurons({first: [0, 3], last: [1]})


def edited(pipe: DiffusionPipeline, neurons: Neurons, scale: float) -> Tensor:
    """The independent way: scale the rows of the weights themselves, then put them back."""
    layers = Model(pipe).value_layers
    before = {path: layers[path].weight.detach().clone() for path in neurons.layers}
    for path, indices in neurons.layers.items():
        layers[path].weight.data[list(indices)] *= scale
    result = output(pipe)
    for path, weight in before.items():
        layers[path].weight.data.copy_(weight)
    return result


def test_what_carries_neurons_is_switched_off_as_they_are(
    pipe: DiffusionPipeline, neurons: Neurons
) -> None:
    """A neuron file has a scale of its own, unless another one is asked for."""
    file = NeuronFile.of(pipe, neurons, scale=0.25)
    ways: list[tuple[Any, float | None, float]] = [
        (localization("a cat", "VM", 0.5, neurons), None, 0.0),
        (localization("a cat", "VM", 0.5, neurons), 0.5, 0.5),
        (file, None, 0.25),
        (file, 0.0, 0.0),
        (NeuronEdit(neurons, 0.25), None, 0.25),
    ]
    for given, asked, scale in ways:
        expected = edited(pipe, neurons, scale)
        with switched_off(pipe, given, scale=asked):
            assert torch.allclose(output(pipe), expected, atol=1e-6)
        switch_off(pipe, given, scale=asked)
        assert torch.allclose(output(pipe), expected, atol=1e-6)
        switch_on(pipe)


def test_a_neuron_file_of_another_model_is_not_switched_off(
    pipe: DiffusionPipeline, neurons: Neurons
) -> None:
    file = replace(NeuronFile.of(pipe, neurons), fingerprint="v2-other")
    with pytest.raises(NeuronError, match="were found in"), switched_off(pipe, file):
        pass
    with pytest.raises(NeuronError, match="were found in"):
        switch_off(pipe, file)


@pytest.mark.parametrize("given", [None, {"mid": [1]}, [1, 2], "neurons.json"], ids=repr)
def test_what_are_no_neurons_is_refused(pipe: DiffusionPipeline, given: Any) -> None:
    problem = r"not neurons\. Give Neurons, a Localization or a NeuronFile\."
    calls: list[Callable[[], Any]] = [
        lambda: switched_off(pipe, given).__enter__(),
        lambda: switch_off(pipe, given),
        lambda: NeuronFile.of(pipe, given),
        lambda: random_control(given, Model(pipe).widths, 0),
    ]
    for call in calls:
        with pytest.raises(NeuronError, match=problem):
            call()


@pytest.mark.parametrize("scale", [0.0, 0.25, -1.0])
def test_switching_off_is_scaling_rows(
    pipe: DiffusionPipeline, neurons: Neurons, scale: float
) -> None:
    with switched_off(pipe, neurons, scale=scale):
        hooked = output(pipe)
    assert torch.allclose(hooked, edited(pipe, neurons, scale), atol=1e-6)
    assert not torch.allclose(hooked, output(pipe), atol=1e-4)


NO_SCALES = [float("nan"), float("inf"), -1e6, 1e6, "0", True]


@pytest.mark.parametrize("scale", NO_SCALES)
def test_what_nothing_can_be_multiplied_by_is_refused(
    pipe: DiffusionPipeline, neurons: Neurons, scale: Any
) -> None:
    before = output(pipe)
    with (
        pytest.raises(NeuronError, match=r"scale=.*between -1e\+06 and 1e\+06"),
        switched_off(pipe, neurons, scale=scale),
    ):
        pass
    with pytest.raises(NeuronError, match="scale="):
        switch_off(pipe, neurons, scale=scale)
    assert torch.equal(output(pipe), before)


@pytest.mark.parametrize("settings", [GenerationSettings, LocalizationSettings])
def test_settings_refuse_such_a_scale_before_any_work(settings: type) -> None:
    with pytest.raises(NeuronError, match=r"scale=1e\+06: neurons are multiplied by"):
        settings(scale=1e6)


def test_pipeline_is_exactly_as_before_also_after_an_exception(
    pipe: DiffusionPipeline, neurons: Neurons
) -> None:
    before = output(pipe)

    def fail() -> None:
        with switched_off(pipe, neurons):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert torch.equal(output(pipe), before)
    assert not any(module._forward_hooks for module in pipe.unet.modules())


def test_no_neurons_change_nothing(pipe: DiffusionPipeline) -> None:
    before = output(pipe)
    with switched_off(pipe, Neurons()):
        assert torch.equal(output(pipe), before)


def test_nested_scales_multiply(pipe: DiffusionPipeline, neurons: Neurons) -> None:
    with switched_off(pipe, neurons, scale=0.5), switched_off(pipe, neurons, scale=0.5):
        nested = output(pipe)
    assert torch.allclose(nested, edited(pipe, neurons, 0.25), atol=1e-6)


def test_switch_off_replaces_and_switch_on_undoes(
    pipe: DiffusionPipeline, neurons: Neurons
) -> None:
    before = output(pipe)
    switch_off(pipe, Neurons({path: range(4) for path in Model(pipe).value_layers}))
    switch_off(pipe, neurons)
    assert torch.allclose(output(pipe), edited_without_hooks(pipe, neurons), atol=1e-6)
    switch_on(pipe)
    switch_on(pipe)
    assert torch.equal(output(pipe), before)


def edited_without_hooks(pipe: DiffusionPipeline, neurons: Neurons) -> Tensor:
    switch_on(pipe)
    result = edited(pipe, neurons, 0.0)
    switch_off(pipe, neurons)
    return result


def test_unknown_neurons_are_refused_and_leave_nothing(pipe: DiffusionPipeline) -> None:
    with (
        pytest.raises(NeuronError, match="no such value layer"),
        switched_off(pipe, Neurons({"nowhere": [1]})),
    ):
        pass
    assert not any(module._forward_hooks for module in pipe.unet.modules())


def test_fused_projections_are_refused(pipe: DiffusionPipeline, neurons: Neurons) -> None:
    pipe.unet.get_submodule(
        next(iter(neurons.layers)).removesuffix(".to_v")
    ).fused_projections = True
    with pytest.raises(ModelError, match="projections are fused"), switched_off(pipe, neurons):
        pass


def test_a_refused_switch_off_leaves_the_earlier_one(
    pipe: DiffusionPipeline, neurons: Neurons
) -> None:
    """A refusal once came after the earlier hooks were gone."""
    first, second = neurons.layers
    switch_off(pipe, Neurons({first: neurons.layers[first]}))
    off = output(pipe)
    pipe.unet.get_submodule(second.removesuffix(".to_v")).fused_projections = True
    with pytest.raises(ModelError, match="projections are fused"):
        switch_off(pipe, neurons)
    pipe.unet.get_submodule(second.removesuffix(".to_v")).fused_projections = False
    assert torch.equal(output(pipe), off)


def test_a_denoiser_may_be_called_by_position() -> None:
    pipe = make("Flux")
    model = Model(pipe)
    call = {key[0]: value for key, value in first_call(pipe, ["a"], 2).arguments.items()}
    image, text = call.pop("hidden_states"), call.pop("encoder_hidden_states")
    neurons = Neurons({path: range(4) for path in model.value_layers})
    with torch.no_grad(), switched_off(pipe, neurons):
        named = model.denoiser(hidden_states=image, encoder_hidden_states=text, **call)[0]
        assert torch.equal(model.denoiser(image, text, **call)[0], named)


@pytest.mark.parametrize("name", ["Stable Diffusion", "Flux"])
def test_a_copy_of_a_denoiser_keeps_its_neurons_off(name: str) -> None:
    pipe = make(name)
    model = Model(pipe)
    neurons = Neurons({path: range(4) for path in model.value_layers})
    plain = output(pipe)
    switch_off(pipe, neurons)
    off, original = output(pipe), model.denoiser
    role = next(role for role in ("unet", "transformer") if getattr(pipe, role, None) is not None)
    copied = copy.deepcopy(original)
    switch_on(pipe)
    assert list(copied.state_dict()) == list(original.state_dict())
    assert torch.equal(output(pipe), plain)
    setattr(pipe, role, copied)
    assert torch.equal(output(pipe), off)
    assert not torch.allclose(off, plain)
    with pytest.raises(ModelError, match=r"Call switch_on\(pipe\) first"):
        compute_statistics(pipe, ["one", "two"])
    switch_on(pipe)
    assert torch.equal(output(pipe), plain)


def adapt(pipe: Any) -> None:
    """Add a LoRA of no effect."""
    peft = pytest.importorskip("peft")
    pipe.unet.add_adapter(
        peft.LoraConfig(r=2, target_modules=["to_q", "to_v"]), adapter_name="style"
    )


def test_a_lora_may_come_while_neurons_are_off(pipe: Any, neurons: Neurons) -> None:
    plain = output(pipe)
    switch_off(pipe, neurons)
    adapt(pipe)
    with pytest.raises(ModelError, match=r"switch_off\(pipe, neurons\) again"):
        output(pipe)
    with pytest.raises(ModelError, match=r"Call switch_on\(pipe\) first"):
        compute_statistics(pipe, ["one", "two"])
    switch_on(pipe)
    assert torch.equal(output(pipe), plain)
    compute_statistics(pipe, ["one", "two"])
    assert not any(module._forward_hooks for module in pipe.unet.modules())


def test_a_lora_may_go_while_neurons_are_off(pipe: Any, neurons: Neurons) -> None:
    plain, off = output(pipe), edited(pipe, neurons, 0.0)
    adapt(pipe)
    switch_off(pipe, neurons)
    assert torch.allclose(output(pipe), off, atol=1e-6)
    pipe.unload_lora_weights()
    with pytest.raises(ModelError, match=r"switch_off\(pipe, neurons\) again"):
        output(pipe)
    with pytest.raises(ModelError, match=r"Call switch_on\(pipe\) first"):
        compute_statistics(pipe, ["one", "two"])
    switch_off(pipe, neurons)
    assert torch.allclose(output(pipe), off, atol=1e-6)
    switch_on(pipe)
    assert torch.equal(output(pipe), plain)
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())


def test_no_neurons_leave_a_compiled_denoiser_compiled(pipe: Any) -> None:
    pipe.unet = compiled = torch.compile(pipe.unet, backend="eager")
    switch_off(pipe, Neurons())
    assert pipe.unet is compiled


@pytest.mark.parametrize("name", ["Stable Diffusion", "PixArt", "Flux"])
def test_statistics_say_that_projections_are_fused(name: str) -> None:
    pipe = make(name)
    for module in Model(pipe).denoiser.modules():
        if fuse := getattr(module, "fuse_projections", None):
            fuse()
    with pytest.raises(ModelError, match=r"projections are fused.*unfuse_qkv_projections"):
        compute_statistics(pipe, ["one", "two"])


def test_nothing_is_measured_with_neurons_off(pipe: DiffusionPipeline, neurons: Neurons) -> None:
    """It would pass for the model's own."""
    switch_off(pipe, neurons)
    for measure in (compute_statistics, calibrate_threshold):
        with pytest.raises(ModelError, match=r"Call switch_on\(pipe\) first"):
            measure(pipe, ["one", "two"])
    switch_on(pipe)
    compute_statistics(pipe, ["one", "two"])


def test_half_precision_stays_half_precision(pipe: DiffusionPipeline, neurons: Neurons) -> None:
    pipe.to(torch.bfloat16)
    model = Model(pipe)
    path, indices = next(iter(neurons.layers.items()))
    layer, text = model.value_layers[path], model.encode(["a prompt"]).text
    plain = layer(text)
    with switched_off(pipe, neurons, scale=0.5):
        weakened = layer(text)
    assert weakened.dtype == plain.dtype == torch.bfloat16
    kept = [index for index in range(plain.shape[-1]) if index not in indices]
    assert torch.equal(weakened[..., list(indices)], plain[..., list(indices)] * 0.5)
    assert torch.equal(weakened[..., kept], plain[..., kept])


def test_neurons_off_in_half_precision_can_be_differentiated_after_inference_mode(
    pipe: DiffusionPipeline, neurons: Neurons
) -> None:
    """Factors are converted in the first pass and kept for the others."""
    pipe.to(torch.bfloat16)
    model = Model(pipe)
    path = next(iter(neurons.layers))
    layer, text = model.value_layers[path], model.encode(["a prompt"]).text
    with switched_off(pipe, neurons, scale=0.5):
        with torch.inference_mode():
            plain = layer(text)
        read = text.clone().requires_grad_()
        with torch.enable_grad():
            again = layer(read)
            (slope,) = torch.autograd.grad(again.sum(), read)
    assert torch.equal(again, plain)
    assert bool(slope.any())


def test_rows_that_do_not_fit_a_batch_are_refused(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    path, layer = next(iter(model.value_layers.items()))
    text = model.encode(["a", "b", "c"]).text
    with (
        scaled(model, [Neurons({path: [0]}), Neurons()], 0.0),
        pytest.raises(ModelError, match=r"2 sets of neurons do not fit a batch of 3\. Give one"),
    ):
        layer(text)
