from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, EulerDiscreteScheduler
from numpy.typing import NDArray
from PIL import Image

from conftest import make_pipeline, with_perturbed_attention
from records import localization
from unmemorize import (
    EditFile,
    GenerationSettings,
    Model,
    ModelError,
    NeuronError,
    NeuronFile,
    Neurons,
    generate,
)
from unmemorize.generation import NeuronEdit, generate_each
from unmemorize.neurons import scaled

FEW = GenerationSettings(images=3, seed=5, steps=3, guidance=3.0, scale=0.5)
Pixels = NDArray[np.int16]


def pixels(images: list[Image.Image]) -> Pixels:
    """Images as one array, (N, H, W, 3)."""
    return np.stack([np.asarray(image).astype(np.int16) for image in images])


@pytest.fixture
def neurons(pipe: DiffusionPipeline) -> Neurons:
    return Neurons({path: range(8) for path in Model(pipe).value_layers})


@torch.inference_mode()
def by_hand(pipe: DiffusionPipeline, prompt: str, settings: GenerationSettings) -> Pixels:
    """Generate with guidance by two denoiser passes for each DDIM step of diffusers."""
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(settings.steps)
    generator = torch.Generator().manual_seed(settings.seed)
    sample = torch.randn((settings.images, 4, 16, 16), generator=generator).to(pipe.dtype)
    tokens = pipe.tokenizer(
        ["", prompt], padding="max_length", truncation=True, return_tensors="pt"
    )
    nothing, text = pipe.text_encoder(tokens.input_ids)[0].unsqueeze(1)
    rows = (settings.images, -1, -1)
    for step in scheduler.timesteps:
        without = pipe.unet(sample, step, nothing.expand(rows)).sample
        with_text = pipe.unet(sample, step, text.expand(rows)).sample
        guided = without + settings.guidance * (with_text - without)
        sample = scheduler.step(guided, step, sample).prev_sample
    decoded = pipe.vae.decode(sample / pipe.vae.config.scaling_factor).sample
    colours = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return np.asarray((colours * 255).round().astype(np.int16))


def scale_weights(pipe: DiffusionPipeline, neurons: Neurons, scale: float) -> None:
    for path, layer in Model(pipe).value_layers.items():
        layer.weight.data[list(neurons.layers.get(path, ()))] *= scale


@pytest.mark.parametrize("change", [{}, {"seed": 6}, {"guidance": 5.0}, {"steps": 2}])
def test_images_are_those_of_ddim_with_guidance(
    pipe: DiffusionPipeline, change: dict[str, Any]
) -> None:
    settings = replace(FEW, **change)
    images = pixels(generate(pipe, "a prompt", settings=settings))
    assert np.abs(images - by_hand(pipe, "a prompt", settings)).max() <= 1
    others = replace(settings, seed=7, guidance=1.5)
    assert np.abs(images - by_hand(pipe, "a prompt", others)).max() > 5


@pytest.mark.parametrize("scale", [0.0, 0.5, -1.0])
def test_switching_off_is_scaling_the_weights(
    pipe: DiffusionPipeline, neurons: Neurons, scale: float
) -> None:
    plain = pixels(generate(pipe, "a prompt", settings=FEW))
    settings = replace(FEW, scale=scale)
    images = pixels(generate(pipe, "a prompt", neurons, settings=settings))
    scale_weights(pipe, neurons, scale)
    assert np.abs(images - by_hand(pipe, "a prompt", settings)).max() <= 1
    assert np.abs(images - plain).max() > 3


def test_an_edit_has_a_scale_of_its_own(pipe: DiffusionPipeline, neurons: Neurons) -> None:
    edited = generate(pipe, "a prompt", NeuronEdit(neurons, -1.0), settings=replace(FEW, scale=0.0))
    expected = generate(pipe, "a prompt", neurons, settings=replace(FEW, scale=-1.0))
    assert np.array_equal(pixels(edited), pixels(expected))


def test_images_do_not_depend_on_the_batch(pipe: DiffusionPipeline, neurons: Neurons) -> None:
    together = pixels(generate(pipe, "a prompt", neurons, settings=FEW))
    alone = pixels(generate(pipe, "a prompt", neurons, settings=replace(FEW, batch=1)))
    assert np.abs(together - alone).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 5


def test_images_are_exactly_as_before_after_switching_off(
    pipe: DiffusionPipeline, neurons: Neurons
) -> None:
    before = pixels(generate(pipe, "a prompt", settings=FEW))
    off = pixels(generate(pipe, "a prompt", neurons, settings=FEW))
    after = pixels(generate(pipe, "a prompt", settings=FEW))
    assert not np.array_equal(before, off)
    assert np.array_equal(before, after)


def test_what_carries_neurons_or_an_edit_is_applied(pipe: DiffusionPipeline) -> None:
    first = next(iter(Model(pipe).value_layers))
    neurons = Neurons({first: [0, 1, 2, 3]})
    off = pixels(generate(pipe, "a prompt", neurons, settings=FEW))
    for given in (
        localization("a prompt", "VM", 0.5, neurons),
        NeuronFile.of(pipe, neurons, scale=0.5),
        EditFile.of(pipe, NeuronEdit(neurons, 0.5)),
    ):
        assert np.array_equal(pixels(generate(pipe, "a prompt", given, settings=FEW)), off)
    other = replace(NeuronFile.of(pipe, neurons), fingerprint="v2-other")
    with pytest.raises(NeuronError, match="were found in"):
        generate(pipe, "a prompt", other, settings=FEW)
    wrong: Any = {first: [0]}
    with pytest.raises(NeuronError, match=r"of type dict. Give Neurons, a Localization, an edit"):
        generate(pipe, "a prompt", wrong, settings=FEW)
    with pytest.raises(NeuronError, match=r"neurons=.* Give Neurons, such as"):
        NeuronEdit(wrong)


def test_an_empty_set_changes_nothing(pipe: DiffusionPipeline) -> None:
    plain = pixels(generate(pipe, "a prompt", settings=FEW))
    empty = pixels(generate(pipe, "a prompt", Neurons(), settings=FEW))
    assert np.array_equal(plain, empty)


def test_the_loaded_scheduler_is_replaced_for_a_while(pipe: DiffusionPipeline) -> None:
    before = pixels(generate(pipe, "a prompt", settings=FEW))
    euler = pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert np.array_equal(before, pixels(generate(pipe, "a prompt", settings=FEW)))
    assert pipe.scheduler is euler


@pytest.mark.parametrize("name", ["images", "steps", "batch"])
def test_at_least_one_is_needed(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name}=0: at least 1"):
        GenerationSettings(**{name: 0})


@pytest.mark.parametrize("name", ["guidance", "scale"])
def test_numbers_are_finite(name: str) -> None:
    fields: Any = {name: float("nan")}
    with pytest.raises(ModelError, match=f"{name}=nan: not a finite number"):
        GenerationSettings(**fields)


def test_what_cannot_be_generated_is_refused(pipe: DiffusionPipeline) -> None:
    with pytest.raises(NeuronError, match="no such value layer"):
        generate(pipe, "x", Neurons({"nowhere": [1]}), settings=FEW)
    assert pipe.scheduler.config.steps_offset == 1
    for steps in (1000, 1001):
        with pytest.raises(ModelError, match="trained with 1000 timesteps"):
            generate(pipe, "x", settings=GenerationSettings(images=1, steps=steps))
    broken = make_pipeline()
    broken.vae.decoder.conv_out.bias.data[0] = float("nan")
    with pytest.raises(ModelError, match="an image of 'x' holds NaN"):
        generate(broken, "x", settings=FEW)


def test_the_progress_bar_of_the_pipeline_is_hidden_and_comes_back(
    pipe: DiffusionPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would come once for each batch, hundreds of times in a mitigation."""
    pipe.set_progress_bar_config(desc="mine")
    generate(pipe, "a prompt", settings=FEW)
    assert capsys.readouterr().err == ""
    pipe("a prompt", num_inference_steps=1, output_type="latent")
    assert "mine" in capsys.readouterr().err


def test_the_safety_checker_does_not_black_out_images(pipe: DiffusionPipeline) -> None:
    def checker(**_: object) -> None:
        raise AssertionError

    plain = pixels(generate(pipe, "a prompt", settings=FEW))
    pipe.safety_checker = checker
    assert np.array_equal(plain, pixels(generate(pipe, "a prompt", settings=FEW)))
    assert pipe.safety_checker is checker


def test_a_pipeline_is_saved_with_its_safety_checker(pipe: DiffusionPipeline) -> None:
    """diffusers forgets the class of a component that is set to None, also when it is put back."""
    pipe.register_modules(safety_checker=pipe.vae)
    registered = pipe.config["safety_checker"]
    generate(pipe, "a prompt", settings=FEW)
    assert pipe.config["safety_checker"] == registered != (None, None)


def test_prompts_of_a_batch_have_their_own_edits(pipe: DiffusionPipeline, neurons: Neurons) -> None:
    """In float64, where no rounding can hide a mistake, the batch changes no image at all."""
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.double()
    settings = replace(FEW, images=2, steps=2)
    first_layer = next(iter(neurons.layers))
    prompts = ["a cat", "a dog", "a cat", "a bird"]
    edits = [
        NeuronEdit(neurons, 0.0),
        None,
        NeuronEdit(Neurons({first_layer: [1, 5]}), -3.0),
        NeuronEdit(neurons, 0.0),
    ]
    alone = [
        pixels(generate(pipe, prompt, edit, settings=settings))
        for prompt, edit in zip(prompts, edits, strict=True)
    ]
    assert not np.array_equal(alone[0], alone[2])
    model = Model(pipe)
    for batch in (1, 2, 4, 9, 50):
        together = generate_each(model, prompts, edits, settings=replace(settings, batch=batch))
        for expected, images in zip(alone, together, strict=True):
            assert np.array_equal(expected, pixels(images))


def test_each_prompt_can_have_its_own_seed(pipe: DiffusionPipeline) -> None:
    """An image of seed 8 is the one that is made with seed 8 alone, in any company."""
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.double()
    settings = replace(FEW, images=2, steps=2, seed=7, batch=4)
    seventh = [pixels(generate(pipe, prompt, settings=settings)) for prompt in ("a cat", "a dog")]
    eighth = pixels(generate(pipe, "a dog", settings=replace(settings, seed=8)))
    assert not np.array_equal(seventh[1], eighth)
    prompts = ["a cat", "a dog", "a dog"]
    mixed = generate_each(Model(pipe), prompts, [None] * 3, settings=settings, seeds=[7, 8, 7])
    for expected, images in zip((seventh[0], eighth, seventh[1]), mixed, strict=True):
        assert np.array_equal(expected, pixels(images))


def counting(steps: list[tuple[int, int | None]]) -> Callable[[int, int | None], None]:
    return lambda done, total: steps.append((done, total))


def test_progress_counts_steps_times_images(pipe: DiffusionPipeline) -> None:
    steps: list[tuple[int, int | None]] = []
    settings = replace(FEW, images=3, steps=2, batch=4)
    generate_each(
        Model(pipe), ["a", "b"], [None, None], settings=settings, progress=counting(steps)
    )
    assert steps == [(done, 12) for done in (4, 8, 8, 10, 12, 12)]


def test_an_interruption_leaves_the_attention_processors(pipe: DiffusionPipeline) -> None:
    """Perturbed-attention guidance puts its processors back at the end of a call alone."""
    pipe = with_perturbed_attention(pipe)
    model, before = Model(pipe), pipe.unet.attn_processors

    def interrupt(*_: object) -> None:
        assert pipe.unet.attn_processors != before
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_each(model, ["x"], [None], settings=FEW, progress=interrupt)
    assert pipe.unet.attn_processors == before


def test_neurons_must_fit_the_batch(pipe: DiffusionPipeline, neurons: Neurons) -> None:
    model = Model(pipe)
    with (
        scaled(model, [neurons, Neurons()], 0.0),
        pytest.raises(ModelError, match="2 sets of neurons do not fit a batch of 3"),
    ):
        model.predict(model.draw_latents(3, 0), torch.tensor(3), model.encode(["a", "b", "c"]))
