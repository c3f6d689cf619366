from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from PIL import Image

from conftest import make_pipeline
from unmemorize import GenerationSettings, Model, ModelError, NeuronError, Neurons, generate
from unmemorize.generation import generate_each
from unmemorize.neurons import scaled

FEW = GenerationSettings(images=3, steps=3, guidance=2.0)


def arrays(images: list[Image.Image]) -> list[np.ndarray[tuple[int, ...], np.dtype[np.int16]]]:
    return [np.asarray(image).astype(np.int16) for image in images]


@pytest.fixture
def neurons(pipe: DiffusionPipeline) -> Neurons:
    return Neurons({path: range(8) for path in Model(pipe).value_layers})


def test_images_do_not_depend_on_the_batch(pipe: DiffusionPipeline, neurons: Neurons) -> None:
    together = arrays(generate(pipe, "a prompt", neurons, settings=FEW))
    alone = arrays(
        generate(
            pipe,
            "a prompt",
            neurons,
            settings=GenerationSettings(images=3, steps=3, guidance=2.0, batch=1),
        )
    )
    assert all(np.abs(one - other).max() <= 1 for one, other in zip(together, alone, strict=True))


def test_images_are_exactly_as_before_after_switching_off(
    pipe: DiffusionPipeline, neurons: Neurons
) -> None:
    before = arrays(generate(pipe, "a prompt", settings=FEW))
    off = arrays(generate(pipe, "a prompt", neurons, settings=FEW))
    after = arrays(generate(pipe, "a prompt", settings=FEW))
    assert any(not np.array_equal(one, other) for one, other in zip(before, off, strict=True))
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_an_empty_set_changes_nothing(pipe: DiffusionPipeline) -> None:
    plain = arrays(generate(pipe, "a prompt", settings=FEW))
    empty = arrays(generate(pipe, "a prompt", Neurons(), settings=FEW))
    assert all(np.array_equal(one, other) for one, other in zip(plain, empty, strict=True))


def test_the_loaded_scheduler_is_put_aside_and_back(pipe: DiffusionPipeline) -> None:
    before = arrays(generate(pipe, "a prompt", settings=FEW))
    own = pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert all(
        np.array_equal(one, other)
        for one, other in zip(before, arrays(generate(pipe, "a prompt", settings=FEW)), strict=True)
    )
    assert pipe.scheduler is own


def test_errors(pipe: DiffusionPipeline) -> None:
    with pytest.raises(ModelError, match="images=0"):
        GenerationSettings(images=0)
    with pytest.raises(NeuronError, match="no such value layer"):
        generate(pipe, "x", Neurons({"nowhere": [1]}), settings=FEW)
    with pytest.raises(ModelError, match="trained with 1000 timesteps"):
        generate(pipe, "x", settings=GenerationSettings(images=1, steps=1001))
    broken = make_pipeline()
    broken.vae.decoder.conv_out.bias.data[0] = float("nan")
    with pytest.raises(ModelError, match="holds NaN"):
        generate(broken, "x", settings=FEW)


def test_the_safety_checker_does_not_black_out_images(pipe: DiffusionPipeline) -> None:
    def checker(**_: object) -> None:
        raise AssertionError

    plain = arrays(generate(pipe, "a prompt", settings=FEW))
    pipe.safety_checker = checker
    assert all(
        np.array_equal(one, other)
        for one, other in zip(plain, arrays(generate(pipe, "a prompt", settings=FEW)), strict=True)
    )
    assert pipe.safety_checker is checker


def test_a_pipeline_is_saved_with_its_safety_checker(pipe: DiffusionPipeline) -> None:
    """diffusers forgets the class of a component that is set to None, also when it is put back."""
    pipe.register_modules(safety_checker=pipe.vae)
    registered = pipe.config["safety_checker"]
    generate(pipe, "a prompt", settings=FEW)
    assert pipe.config["safety_checker"] == registered != (None, None)


def test_prompts_of_a_batch_have_their_own_neurons(
    pipe: DiffusionPipeline, neurons: Neurons
) -> None:
    """In float64, where no rounding can hide a mistake: whatever the batch, each prompt looks as if it were alone."""
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.double()
    prompts, off = (
        ["a cat", "a dog", "a cat"],
        [neurons, Neurons(), Neurons({next(iter(neurons.layers)): [1, 5]})],
    )
    alone = [
        arrays(generate(pipe, prompt, some, settings=FEW))
        for prompt, some in zip(prompts, off, strict=True)
    ]
    assert not np.array_equal(alone[0][0], alone[2][0])
    for batch in (1, 2, 4, 9, 50):
        together = generate_each(pipe, prompts, off, settings=replace(FEW, batch=batch))
        for expected, images in zip(alone, together, strict=True):
            assert all(
                np.array_equal(one, other)
                for one, other in zip(expected, arrays(images), strict=True)
            )


def test_neurons_must_fit_the_batch(pipe: DiffusionPipeline, neurons: Neurons) -> None:
    model = Model(pipe)
    with (
        scaled(model, [neurons, Neurons()], 0.0),
        pytest.raises(ModelError, match="2 sets of neurons do not fit a batch of 3"),
    ):
        model.predict(model.draw_latents(3, 0), torch.tensor(3), model.encode(["a", "b", "c"]))
