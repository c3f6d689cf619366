"""Traces and detectors on every architecture, on tiny random pipelines of its real classes."""

from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from architectures import ARCHITECTURES, make
from conftest import PROMPTS
from unmemorize import (
    Model,
    ModelError,
    NoiseSettings,
    Prompt,
    PromptError,
    calibrate_threshold,
    detect,
)
from unmemorize.detection import (
    Anisotropy,
    Detector,
    LateNoiseMagnitude,
    LayerEntropy,
    Moment,
    NoiseMagnitude,
    Trace,
    WhiteBox,
)
from unmemorize.pipelines import NoiseLevel, run, sampler
from unmemorize.pipelines._packing import unpack

STEPS, GUIDANCE, SETTINGS = 3, 2.0, NoiseSettings(seeds=2)
UNGUIDED = ("Flux", "Qwen-Image")
ATTENDED = ("Stable Diffusion", "Stable Diffusion 2", "Stable Diffusion XL", "PixArt", "HunyuanDiT")
CHEAP: list[Detector] = [
    LateNoiseMagnitude(seeds=2),
    NoiseMagnitude(seeds=2),
    Anisotropy(seeds=2),
    WhiteBox(seeds=2),
]


def samples_of_the_pipeline(name: str, text: str) -> list[Tensor]:
    """What the denoiser receives at each step of an ordinary guided run of two images."""
    pipe = make(name)
    model = Model(pipe)
    latents = model.draw_latents(2, SETTINGS.seed)
    pipe.scheduler = sampler(pipe)
    received: list[Tensor] = []

    def keep(_module: object, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> None:
        sample = inputs[0] if inputs else arguments["hidden_states"]
        received.append(unpack(sample) if sample.ndim == 3 else sample)

    model.denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    if hasattr(pipe, "prepare_intermediate_images"):
        pipe.prepare_intermediate_images = lambda *_, **__: latents
    run(
        pipe,
        [text, text],
        GUIDANCE,
        latents=model.to_denoiser(latents),
        num_inference_steps=STEPS,
        output_type="np",
    )
    return [sample[2:] for sample in received]  # the first half is without text


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in UNGUIDED])
def test_a_guided_run_is_that_of_the_pipeline(name: str) -> None:
    expected = samples_of_the_pipeline(name, PROMPTS[1])
    trace = Trace(Model(make(name)), PROMPTS[:3], SETTINGS)
    assert len(expected) == STEPS
    for step, sample in enumerate(expected):
        received = trace.samples(2, Moment(step, STEPS, GUIDANCE))[1]
        torch.testing.assert_close(received, sample, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "Flux"])
def test_cheap_detectors_run_on_every_architecture(name: str) -> None:
    model = Model(make(name))
    trace = Trace(model, PROMPTS, SETTINGS)
    for detector in CHEAP:
        values = {score.value for score in detector.score(trace)}
        assert len(values) == len(PROMPTS)
    threshold = calibrate_threshold(model, PROMPTS, detector=CHEAP[0], settings=SETTINGS)
    assert threshold.detect.tau in threshold.detect.scores  # the bound holds for such prompts
    assert not any(
        detect(model, text, threshold=threshold).memorized
        for text, score in zip(PROMPTS, threshold.detect.scores, strict=True)
        if score < threshold.detect.tau
    )


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_attention_where_there_is_some(name: str) -> None:
    trace = Trace(Model(make(name)), PROMPTS[:2], SETTINGS)
    if name in (*ATTENDED, "Sana"):
        tokens = trace.attention(1, Moment(0)).tokens
        torch.testing.assert_close(tokens.sum(-1), torch.ones(tokens.shape[:-1]))
        return
    with pytest.raises(ModelError, match=r"no cross-attention probabilities.*seed-similarity"):
        LayerEntropy().score(trace)


def test_a_trace_takes_prompts_and_a_pipeline(pipe: DiffusionPipeline) -> None:
    texts, prompts = ["a cat", "a dog"], [Prompt("a cat"), Prompt("a dog")]
    traces = Trace(Model(pipe), texts), Trace(pipe, prompts)
    first, second = (trace.predictions(1, Moment(0)) for trace in traces)
    assert torch.equal(first, second)
    assert len(first) == 2
    with pytest.raises(PromptError, match="a single prompt"):
        Trace(pipe, "a cat")


def test_distilled_guidance_is_refused() -> None:
    trace = Trace(Model(make("Flux")), PROMPTS[:1], SETTINGS)
    for detector in CHEAP:
        with pytest.raises(ModelError, match=r"guidance is distilled.*seed-similarity"):
            detector.score(trace)


LEVELS = {
    "epsilon": lambda image, noise, signal, sigma: noise,
    "v_prediction": lambda image, noise, signal, sigma: signal * noise - sigma * image,
    "sample": lambda image, noise, signal, sigma: image,
    "flow": lambda image, noise, signal, sigma: noise - image,
}


@pytest.mark.parametrize("kind", list(LEVELS))
def test_what_a_perfect_prediction_says(kind: Any) -> None:
    image, noise = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    signal, sigma = (0.3, 0.7) if kind == "flow" else (0.6, 0.8)
    sample = signal * image + sigma * noise
    prediction = LEVELS[kind](image, noise, signal, sigma)
    level = NoiseLevel(kind, signal, sigma)
    torch.testing.assert_close(level.wanted(image, noise), prediction)
    torch.testing.assert_close(level.noise(prediction, sample), noise)
    torch.testing.assert_close(level.clean(prediction, sample), image)
    estimate = noise if kind == "epsilon" else -image
    torch.testing.assert_close(level.estimate(prediction, sample), estimate)
    difference = noise - sample if kind == "epsilon" else -image
    torch.testing.assert_close(level.difference(prediction, sample), difference)
    removed = sample - image if kind == "flow" else sample / signal - image
    torch.testing.assert_close(level.removed(prediction, sample), removed)
    scored = -image if kind == "flow" else noise
    torch.testing.assert_close(level.scored(prediction, sample), scored)
    assert level.score_scale == (1 if kind == "flow" else 1 / 0.8)
    blind = NoiseLevel("v_prediction", 0.0, 1.0)
    torch.testing.assert_close(blind.removed(-image, noise), noise - image)
    torch.testing.assert_close(blind.scored(-image, noise), -image)
    torch.testing.assert_close(NoiseLevel("sample", 0.0, 1.0).scored(image, noise), -image)
    torch.testing.assert_close(NoiseLevel("epsilon", 0.0, 1.0).scored(image, noise), image)
