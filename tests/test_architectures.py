"""Every architecture end to end, on tiny random pipelines of its real classes."""

import fnmatch
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from architectures import ARCHITECTURES, make
from conftest import PROMPTS
from unmemorize import (
    GenerationSettings,
    LocalizationSettings,
    Model,
    Neurons,
    NoiseSettings,
    Threshold,
    calibrate_threshold,
    compute_statistics,
    generate,
    localize,
    switched_off,
)
from unmemorize.pipelines import run, sampler, select_value_layers, text_rows_only
from unmemorize.pipelines._model import pack, unpack
from unmemorize.statistics import activations
from unmemorize.statistics._activations import source_of

LAYERS = {
    "Stable Diffusion": ("*.attn2.to_v", "text", 7, 3),
    "Stable Diffusion 2": ("*.attn2.to_v", "text", 7, 3),
    "Stable Diffusion XL": ("*.attn2.to_v", "text", 11, 5),
    "DeepFloyd IF": ("*.add_v_proj", "projection", 4, 2),
    "PixArt": ("transformer_blocks.*.attn2.to_v", "projection", 3, 3),
    "Stable Diffusion 3": ("transformer_blocks.*.attn.add_v_proj", "denoiser", 3, 3),
    "Flux": ("*transformer_blocks.*.attn.*", "denoiser", 4, 4),
}
every_architecture = pytest.mark.parametrize("name", list(ARCHITECTURES))


@every_architecture
def test_value_layers(name: str) -> None:
    pattern, source, count, searched = LAYERS[name]
    model = Model(make(name))
    assert len(model.value_layers) == count
    assert all(fnmatch.fnmatchcase(path, pattern) for path in model.value_layers)
    assert len(select_value_layers(model.value_layers)) == searched
    assert source_of(model) == source
    ran: list[str] = []
    for path, layer in model.value_layers.items():
        layer.register_forward_hook(lambda *_, path=path: ran.append(path))
    model.predict(model.draw_latents(1, 0), model.timesteps(50)[1], model.encode(["x"]))
    assert ran == list(model.value_layers)


def recorded(pipe: Any, latents: Tensor, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Samples and outputs of each call of the denoiser while the pipeline generates, without guidance."""
    model = Model(pipe)
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(
        _module: object, inputs: tuple[Any, ...], arguments: dict[str, Any], output: Any
    ) -> None:
        sample = (
            inputs[0] if inputs else arguments["hidden_states"]
        )  # Stable Diffusion 3 and Flux name it
        calls.append((sample, output[0]))

    handle = model.denoiser.register_forward_hook(keep, with_kwargs=True)
    if hasattr(pipe, "prepare_intermediate_images"):
        pipe.prepare_intermediate_images = lambda *_, **__: latents
    run(
        pipe,
        ["a prompt", "another"],
        latents=model.as_given(latents),
        num_inference_steps=steps,
        guidance_scale=1.0,
        output_type="np",
    )
    handle.remove()
    return calls


@every_architecture
def test_predictions_are_those_of_the_pipeline(name: str) -> None:
    """What the pipeline's denoiser returns in generation is what `Model.predict` returns for the same samples, at each timestep."""
    pipe = make(name)
    model = Model(pipe)
    pipe.scheduler = sampler(pipe)
    calls = recorded(pipe, model.draw_latents(2, 0), 3)
    text = model.encode(["a prompt", "another"])
    timesteps = pipe.scheduler.timesteps
    assert len(calls) == len(timesteps) == 3
    for timestep, (sample, output) in zip(timesteps, calls, strict=True):
        packed = sample.ndim == 3
        found = model.predict(unpack(sample) if packed else sample, timestep, text)
        torch.testing.assert_close(
            found, (unpack(output) if packed else output)[:, : found.shape[1]].float()
        )


def test_packing_is_that_of_the_pipeline() -> None:
    pipe = make("Flux")
    latents = torch.randn(2, 4, 16, 16)
    assert torch.equal(pack(latents), pipe._pack_latents(latents, 2, 4, 16, 16))
    assert torch.equal(unpack(pack(latents)), latents)


@every_architecture
def test_activations_are_what_the_layers_return_in_a_forward(name: str) -> None:
    model = Model(make(name))
    text = model.encode(PROMPTS[:2])
    outputs: dict[str, Tensor] = {}
    for path, layer in model.value_layers.items():
        layer.register_forward_hook(
            lambda _layer, _inputs, output, path=path: outputs.__setitem__(path, output)
        )
    model.predict(model.draw_latents(1, 1).expand(2, -1, -1, -1), model.timesteps(50)[1], text)
    expected = {path: output.clone() for path, output in outputs.items()}
    tokens = text.text.shape[1]
    for path, found in activations(model, text).items():
        rows = expected[path][:, :tokens] if text_rows_only(path) else expected[path]
        torch.testing.assert_close(found, rows.abs().mean(1))
        assert found.shape == (2, model.widths[path])


@every_architecture
def test_switching_off_is_a_row_of_zeros(name: str) -> None:
    """Layers that project text alone: the same as zeros in weight and bias. Single-stream layers: the image rows stay."""
    pipe = make(name)
    model = Model(pipe)
    text, latents, timestep = (
        model.encode(["a prompt"]),
        model.draw_latents(1, 0),
        model.timesteps(50)[1],
    )
    before = model.predict(latents, timestep, text)
    for path, layer in model.value_layers.items():
        neurons = Neurons({path: [1, 3]})
        seen: list[Tensor] = []
        with switched_off(pipe, neurons):
            handle = layer.register_forward_hook(
                lambda _layer, _inputs, output, seen=seen: seen.append(output)
            )
            off = model.predict(latents, timestep, text)
            handle.remove()
        assert not torch.equal(off, before)
        tokens = text.text.shape[1] if text_rows_only(path) else seen[0].shape[1]
        assert not seen[0][:, :tokens, [1, 3]].any()
        if text_rows_only(path):
            assert seen[0].shape[1] > tokens
            assert seen[0][:, tokens:, [1, 3]].all()
        else:
            saved = {key: value.clone() for key, value in layer.state_dict().items()}
            for value in layer.state_dict().values():
                value[[1, 3]] = 0
            assert torch.equal(model.predict(latents, timestep, text), off)
            layer.load_state_dict(saved)
    assert torch.equal(model.predict(latents, timestep, text), before)


# Flux has no guidance in one pass, see below
@pytest.mark.parametrize(
    ("name", "guidance"),
    [
        (name, guidance)
        for name in ARCHITECTURES
        for guidance in (0.0, 2.0)
        if (name, guidance) != ("Flux", 2.0)
    ],
)
def test_from_statistics_to_images(name: str, guidance: float) -> None:
    pipe = make(name)
    settings = NoiseSettings(seeds=3, guidance=guidance)
    statistics = compute_statistics(pipe, PROMPTS)
    threshold = replace(
        calibrate_threshold(pipe, PROMPTS, settings=settings), tau=1e-3, tau_seeds=1e-3
    )
    for criterion in ("unblocked", "seeds"):
        chosen = LocalizationSettings(
            noise=settings, criterion=criterion, theta=2.0, theta_step=0.5
        )
        found = localize(
            pipe, "zebra quartz", statistics=statistics, threshold=threshold, settings=chosen
        )
        assert found.memorized
        assert found.initial
        assert not found.neurons - found.initial
    images = [
        generate(
            pipe,
            "zebra quartz",
            neurons,
            settings=GenerationSettings(images=2, steps=3, guidance=1.0 + guidance, batch=batch),
        )
        for neurons, batch in ((None, 2), (found.initial, 2), (found.initial, 1))
    ]
    arrays = [np.stack([np.asarray(image) for image in some]).astype(int) for some in images]
    assert arrays[0].shape == (2, 16, 16, 3)
    assert np.abs(arrays[1] - arrays[2]).max() <= 1  # rounding of another batch
    assert np.abs(arrays[0] - arrays[1]).max() > 0
    assert np.abs(arrays[0][0] - arrays[0][1]).max() > 0
    with switched_off(pipe, found.initial):
        own = generate(
            pipe,
            "zebra quartz",
            settings=GenerationSettings(images=2, steps=3, guidance=1.0 + guidance, batch=2),
        )
    assert np.array_equal(np.stack([np.asarray(image) for image in own]), arrays[1])


def test_flux_has_no_guidance_in_one_pass() -> None:
    from unmemorize import ModelError

    pipe = make("Flux")
    with pytest.raises(ModelError, match="no classifier-free guidance"):
        calibrate_threshold(pipe, PROMPTS, settings=NoiseSettings(guidance=2.0))


@every_architecture
def test_thresholds_know_the_shape(name: str) -> None:
    pipe = make(name)
    assert Threshold.given(pipe, 0.4).kernel == 3
    assert Model(pipe).latent_shape == (3 if name == "DeepFloyd IF" else 4, 16, 16)


@every_architecture
def test_a_saved_pipeline_is_the_same_model(name: str, tmp_path: Path) -> None:
    from unmemorize import load_pipeline

    pipe = make(name)
    pipe.save_pretrained(tmp_path / "model")
    loaded = load_pipeline(str(tmp_path / "model"), device="cpu", local_files_only=True)
    assert type(loaded) is type(pipe)
    assert Model(loaded).fingerprint == Model(pipe).fingerprint
