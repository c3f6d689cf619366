"""Every architecture end to end, on tiny random pipelines of its real classes."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from architectures import ARCHITECTURES, make
from conftest import PROMPTS, one_number
from unmemorize import (
    GenerationSettings,
    Localization,
    LocalizationSettings,
    Model,
    ModelError,
    Neurons,
    NoiseSettings,
    Prompt,
    Threshold,
    calibrate_threshold,
    compute_statistics,
    generate,
    load_pipeline,
    localize,
    switched_off,
)
from unmemorize.detection import detect_prompts
from unmemorize.localization import Criterion
from unmemorize.pipelines import run, sampler, select_value_layers, text_rows_only
from unmemorize.pipelines._packing import pack, unpack
from unmemorize.statistics import activations

LAYERS = {
    "Stable Diffusion": ("*.attn2.to_v", "text", 7, 3),
    "Stable Diffusion 2": ("*.attn2.to_v", "text", 7, 3),
    "Stable Diffusion XL": ("*.attn2.to_v", "text", 11, 5),
    "DeepFloyd IF": ("*.add_v_proj", "projection", 4, 2),
    "PixArt": ("transformer_blocks.*.attn2.to_v", "projection", 3, 3),
    "Stable Diffusion 3": ("transformer_blocks.*.attn.add_v_proj", "denoiser", 3, 3),
    "Flux": ("*transformer_blocks.*.attn.*", "denoiser", 4, 4),
    "Qwen-Image": ("transformer_blocks.*.attn.add_v_proj", "denoiser", 2, 2),
    "HunyuanDiT": ("blocks.*.attn2.to_v", "projection", 4, 4),
    "Sana": ("transformer_blocks.*.attn2.to_v", "projection", 3, 3),
}
GUIDANCE = {name: 0.0 if name in ("Flux", "Qwen-Image") else 2.0 for name in ARCHITECTURES}
"""Flux and Qwen-Image have no guidance in one pass, so their chain is the one without."""
PROMPT = "zebra quartz"
CRITERIA: tuple[Criterion, ...] = ("unblocked", "seeds")


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> Model:
    """A model of each architecture, which tests leave as it was."""
    return Model(make(name))


@contextmanager
def hooked(model: Model, hook: Any) -> Iterator[None]:
    """Call ``hook(path, output)`` for each value layer that runs."""
    with ExitStack() as stack:
        for path, layer in model.value_layers.items():
            handle = layer.register_forward_hook(
                lambda _layer, _inputs, output, path=path: hook(path, output)
            )
            stack.callback(handle.remove)
        yield


def test_value_layers(name: str, model: Model) -> None:
    pattern, value_input, count, searched = LAYERS[name]
    assert len(model.value_layers) == count
    assert all(fnmatch.fnmatchcase(path, pattern) for path in model.value_layers)
    assert len(select_value_layers(model.value_layers)) == searched
    assert model.value_input == value_input
    ran: list[str] = []
    with hooked(model, lambda path, _output: ran.append(path)):
        model.predict(model.draw_latents(1, 0), model.timesteps(50)[1], model.encode(["x"]))
    assert ran == list(model.value_layers)


def recorded(model: Model, latents: Tensor, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Samples and outputs of each call of the denoiser while the pipeline generates unguided."""
    pipe = model.pipe
    initial = model.to_denoiser(latents)
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(
        _module: object, inputs: tuple[Any, ...], arguments: dict[str, Any], output: Any
    ) -> None:
        # Stable Diffusion 3 and Flux pass the sample by its name
        calls.append((inputs[0] if inputs else arguments["hidden_states"], output[0]))

    handle = model.denoiser.register_forward_hook(keep, with_kwargs=True)
    if hasattr(pipe, "prepare_intermediate_images"):
        pipe.prepare_intermediate_images = lambda *_, **__: latents
    run(
        pipe,
        ["a prompt", "another"],
        1.0,
        latents=initial,
        num_inference_steps=steps,
        output_type="np",
    )
    handle.remove()
    return calls


def test_predictions_are_those_of_the_pipeline(name: str) -> None:
    """For the same samples, the denoiser returns in generation what `Model.predict` returns."""
    pipe = make(name)
    model = Model(pipe)
    pipe.scheduler = sampler(pipe)
    calls = recorded(model, model.draw_latents(2, 0), 3)
    text = model.encode(["a prompt", "another"])
    timesteps = pipe.scheduler.timesteps
    assert len(calls) == len(timesteps) == 3
    for timestep, (sample, output) in zip(timesteps, calls, strict=True):
        packed = sample.ndim == 3
        prediction = model.predict(unpack(sample) if packed else sample, timestep, text)
        returned = unpack(output) if packed else output
        torch.testing.assert_close(prediction, returned[:, : prediction.shape[1]].float())


def test_packing_is_that_of_the_pipeline() -> None:
    pipe = make("Flux")
    latents = torch.randn(2, 4, 16, 16)
    assert torch.equal(pack(latents), pipe._pack_latents(latents, 2, 4, 16, 16))
    assert torch.equal(unpack(pack(latents)), latents)


def test_activations_are_what_the_layers_return_in_a_forward(model: Model) -> None:
    text = model.encode(PROMPTS[:2])
    outputs: dict[str, Tensor] = {}
    with hooked(model, lambda path, output: outputs.__setitem__(path, output.clone())):
        model.predict(model.draw_latents(1, 1).expand(2, -1, -1, -1), model.timesteps(50)[1], text)
    tokens = text.text.shape[1]
    activation = activations(model, text)
    assert activation.keys() == outputs.keys()
    for path, values in activation.items():
        rows = outputs[path][:, :tokens] if text_rows_only(path) else outputs[path]
        torch.testing.assert_close(values, rows.abs().mean(1))
        assert values.shape == (2, model.widths[path])


def test_switching_off_is_a_row_of_zeros(model: Model) -> None:
    """The same as zeros in weight and bias; single-stream layers keep their image rows."""
    text = model.encode(["a prompt"])
    latents, timestep = model.draw_latents(1, 0), model.timesteps(50)[1]
    before = model.predict(latents, timestep, text)
    for path, layer in model.value_layers.items():
        neurons = Neurons({path: [1, 3]})
        outputs: dict[str, Tensor] = {}
        with (
            switched_off(model, neurons),
            hooked(model, lambda path, output, seen=outputs: seen.__setitem__(path, output)),
        ):
            off = model.predict(latents, timestep, text)
        output = outputs[path]
        assert not torch.equal(off, before)
        tokens = text.text.shape[1] if text_rows_only(path) else output.shape[1]
        assert not output[:, :tokens, [1, 3]].any()
        if text_rows_only(path):
            assert output.shape[1] > tokens
            assert output[:, tokens:, [1, 3]].all()
        else:
            saved = {key: value.clone() for key, value in layer.state_dict().items()}
            for value in layer.state_dict().values():
                value[[1, 3]] = 0
            assert torch.equal(model.predict(latents, timestep, text), off)
            layer.load_state_dict(saved)
    assert torch.equal(model.predict(latents, timestep, text), before)


@dataclass(frozen=True)
class Chain:
    """What all steps, one after another, made of a model."""

    threshold: Threshold
    localizations: dict[Criterion, Localization]


@pytest.fixture(scope="module")
def chain(name: str, model: Model) -> Chain:
    """Statistics, calibration and localization by both criteria."""
    noise = NoiseSettings(seeds=3, guidance=GUIDANCE[name])
    statistics = compute_statistics(model, PROMPTS)
    threshold = one_number(
        calibrate_threshold(model, PROMPTS, detector="seed-similarity", settings=noise), 1e-3, 1e-3
    )
    localizations = {
        criterion: localize(
            model,
            PROMPT,
            statistics=statistics,
            threshold=threshold,
            settings=LocalizationSettings(
                noise=noise, criterion=criterion, theta=2.0, theta_step=0.5
            ),
        )
        for criterion in CRITERIA
    }
    return Chain(threshold, localizations)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_neurons_are_localized(chain: Chain, criterion: Criterion) -> None:
    localization = chain.localizations[criterion]
    assert localization.memorized
    assert localization.initial
    assert not localization.neurons - localization.initial
    assert localization.criterion == criterion


def images_of(model: Model, neurons: Neurons | None, guidance: float, batch: int) -> Any:
    settings = GenerationSettings(images=2, steps=3, guidance=1.0 + guidance, batch=batch)
    images = generate(model, PROMPT, neurons, settings=settings)
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_images_with_the_neurons_off(name: str, model: Model, chain: Chain) -> None:
    neurons, guidance = chain.localizations["seeds"].initial, GUIDANCE[name]
    before = images_of(model, None, guidance, 2)
    off = images_of(model, neurons, guidance, 2)
    one_by_one = images_of(model, neurons, guidance, 1)
    side = 32 if name == "Sana" else 16  # whose pipeline makes no smaller ones
    assert before.shape == (2, side, side, 3)
    assert np.abs(off - one_by_one).max() <= 1  # another batch rounds differently
    assert np.abs(before - off).max() > 0
    assert np.abs(before[0] - before[1]).max() > 0
    with switched_off(model, neurons):
        assert np.array_equal(images_of(model, None, guidance, 2), off)


def test_flux_has_no_guidance_in_one_pass() -> None:
    with pytest.raises(ModelError, match="no classifier-free guidance"):
        calibrate_threshold(make("Flux"), PROMPTS, settings=NoiseSettings(guidance=2.0))


def test_the_default_detector_bounds_false_positives_everywhere(name: str, model: Model) -> None:
    """Of new prompts no more lie above the level than happens in 1 of 1,000 calibrations."""
    texts = [f"{first} {second}" for first in "abcdefg" for second in "hijklmn"]
    settings = NoiseSettings(seeds=2)
    threshold = calibrate_threshold(model, texts[:24], settings=settings)
    expected = "seed-similarity" if name.startswith("Flux") else "late-noise-magnitude"
    assert (threshold.detect.detector, threshold.detect.max_fpr) == (expected, 0.04)
    prompts = [Prompt(text) for text in texts[24:]]
    found = detect_prompts(model, prompts, threshold, settings)
    assert all(detection.score > 0 for detection in found)
    assert sum(detection.memorized for detection in found) <= 8


def test_thresholds_know_the_shape(name: str, model: Model) -> None:
    assert Threshold.given(model, 0.4).kernel == 3
    assert model.latent_shape == (3 if name == "DeepFloyd IF" else 4, 16, 16)


def test_a_saved_pipeline_is_the_same_model(model: Model, tmp_path: Path) -> None:
    model.pipe.save_pretrained(tmp_path / "model")
    loaded = load_pipeline(str(tmp_path / "model"), device="cpu", local_files_only=True)
    assert type(loaded) is type(model.pipe)
    assert Model(loaded).fingerprint == model.fingerprint
