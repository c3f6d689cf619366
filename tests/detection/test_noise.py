import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize import Model, ModelError, NoiseSettings
from unmemorize.detection import make_probe, noise_differences
from unmemorize.detection._noise import rescaled


def test_noise_difference_is_prediction_minus_noise_rescaled(pipe: DiffusionPipeline) -> None:
    model, settings = Model(pipe), NoiseSettings(seeds=3)
    probe = make_probe(model, model.encode(["a prompt"]), settings)
    with torch.no_grad():
        prediction = pipe.unet(
            probe.latents, 961, encoder_hidden_states=probe.text.text.expand(3, -1, -1)
        ).sample
    raw = (prediction - probe.latents).double().numpy()
    low, high = raw.min((2, 3), keepdims=True), raw.max((2, 3), keepdims=True)
    differences = noise_differences(model, probe)
    np.testing.assert_allclose(differences.numpy(), (raw - low) / (high - low), atol=1e-5)
    assert differences.amin() == 0
    assert differences.amax() == 1


def test_protocol_names_the_timestep(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    text = model.encode(["x"])
    assert make_probe(model, text, NoiseSettings()).timestep == 961
    assert make_probe(model, text, NoiseSettings(protocol="paper")).timestep == 981


def predicted(pipe: DiffusionPipeline, latents: Tensor, text: str) -> Tensor:
    """The denoiser's own output at timestep 961, called as diffusers calls it."""
    embedding, _ = pipe.encode_prompt(text, "cpu", 1, False)
    states = embedding.expand(len(latents), -1, -1)
    with torch.no_grad():
        output: Tensor = pipe.unet(latents, 961, encoder_hidden_states=states).sample
    return output


@pytest.mark.parametrize("scale", [3.0, -0.5, 1.0])
def test_guidance_against_its_formula(pipe: DiffusionPipeline, scale: float) -> None:
    text = "a long prompt of some words"
    model, settings = Model(pipe), NoiseSettings(seeds=2, guidance=scale)
    probe = make_probe(model, model.encode([text]), settings)
    with_text, without = predicted(pipe, probe.latents, text), predicted(pipe, probe.latents, "")
    expected = rescaled(without + scale * (with_text - without) - probe.latents)
    torch.testing.assert_close(noise_differences(model, probe), expected, rtol=0, atol=1e-5)
    reversed_halves = rescaled(with_text + scale * (without - with_text) - probe.latents)
    assert not torch.allclose(expected, reversed_halves, atol=1e-3)


def test_a_probe_counts_the_samples_of_both_halves(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    text = model.encode(["x"])
    assert make_probe(model, text, NoiseSettings(seeds=5)).samples == 5
    guided = make_probe(model, text, NoiseSettings(seeds=5, guidance=2.0))
    assert guided.samples == 10
    some = guided.of_seeds([3, 1])
    assert some.samples == 4
    assert torch.equal(some.latents, guided.latents[[3, 1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 1}, "at least 2"),
        ({"similarity": "mine"}, r"similarity='mine': .* Choose fixed or published\."),
        ({"steps": 1}, "too few"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        NoiseSettings(**change)  # type: ignore[arg-type]
