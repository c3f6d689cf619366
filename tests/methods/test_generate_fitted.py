"""Sets of images under methods, next to those with neurons off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from conftest import PLANTED_PROMPT, planted_pipeline
from unmemorize import (
    ClosedFormEdit,
    Erased,
    GenerationSettings,
    MitigationError,
    Model,
    Neurons,
    Prompt,
    Run,
    RunError,
    generate,
    generate_all,
)
from unmemorize.generation import (
    Change,
    ImageSet,
    ImageSetRun,
    NeuronEdit,
    NeuronSet,
    image_sets,
    read_images,
)
from unmemorize.localization import read_localizations
from unmemorize.methods import generate_fitted, method_of
from unmemorize.methods._pads import ZeroedPads
from unmemorize.methods._random_tokens import RandomTokens

FEW = GenerationSettings(images=2, steps=2, guidance=3.0)
ORDINARY = ("a dog", "rain on a hill")
MEMORIZED = 1
"""The index of the memorized prompt of `run`."""


@pytest.fixture(scope="module")
def model() -> Model:
    """The model of `run`, which no test changes."""
    return Model(planted_pipeline())


def drawn(images: Run, index: int) -> list[bytes]:
    pixels = []
    for name in read_images(images)[index].files:
        with Image.open(images.folder / name) as image:
            pixels.append(np.asarray(image).tobytes())
    return pixels


def expected(model: Model, change: Change, settings: GenerationSettings = FEW) -> list[bytes]:
    images = generate(model, PLANTED_PROMPT, change, settings=settings)
    return [np.asarray(image).tobytes() for image in images]


def test_images_are_those_of_generate_under_what_the_method_makes(run: Run, model: Model) -> None:
    tokens = method_of("random-tokens=3")
    tally = generate_fitted(run, model, tokens, FEW)
    assert (tally.complete, tally.run.folder) == (True, run.folder / "images" / "random-tokens-3")
    assert list(read_images(tally.run)) == [MEMORIZED]
    assert drawn(tally.run, MEMORIZED) == expected(model, RandomTokens(strength=3))
    originals = generate_all(run, model, ImageSet(neurons=NeuronSet.parse("original")), FEW).run
    assert drawn(originals, MEMORIZED) != drawn(tally.run, MEMORIZED)
    assert list(image_sets(run)) == ["original", "random-tokens-3"]


def test_an_edit_is_fitted_to_each_prompt_and_spares_ordinary_captions(
    run: Run, model: Model
) -> None:
    method, settings = method_of("closed-form=3"), replace(FEW, seed=5)
    images = generate_fitted(run, model, method, settings, ordinary=ORDINARY).run
    edit = ClosedFormEdit((Erased(PLANTED_PROMPT, 3.0),), ORDINARY)
    assert drawn(images, MEMORIZED) == expected(model, edit, settings)
    other = ClosedFormEdit((Erased(PLANTED_PROMPT, 3.0),))
    assert drawn(images, MEMORIZED) != expected(model, other, settings)
    assert read_images(images)[MEMORIZED].neurons == Neurons()
    determining = images.settings(ImageSetRun).method
    assert determining is not None
    assert (determining["name"], determining["strength"]) == ("closed-form", 3.0)
    with pytest.raises(RunError, match=r"made with method\.ordinary"):
        generate_fitted(run, model, method, settings, ordinary=ORDINARY[:1])


def test_neurons_are_those_of_the_run(run: Run, model: Model) -> None:
    neurons = read_localizations(run)[MEMORIZED].neurons
    images = generate_fitted(run, model, method_of("neurons=0.5"), FEW).run
    assert neurons
    assert drawn(images, MEMORIZED) == expected(model, NeuronEdit(neurons, 0.5))
    assert read_images(images)[MEMORIZED].neurons == neurons
    with pytest.raises(MitigationError, match=r"neurons-greedy: .*localize --refinement greedy"):
        generate_fitted(run, model, method_of("neurons-greedy"), FEW)
    others = [Prompt("a cat")]
    with pytest.raises(MitigationError, match=r"for 'a cat'\. Localize this prompt"):
        generate_fitted(run, model, method_of("neurons"), FEW, prompts=others, label="x")


def test_other_prompts_are_fitted_themselves_and_fail_with_the_reason(
    run: Run, model: Model
) -> None:
    others = [Prompt("a cat"), Prompt(PLANTED_PROMPT)]
    tally = generate_fitted(run, model, method_of("pads"), FEW, prompts=others, label="x")
    assert tally.run.folder.name == "pads-0.7-on-x"
    assert drawn(tally.run, 1) == expected(model, ZeroedPads(strength=0.7))
    failed = generate_fitted(run, model, method_of("siss"), FEW, prompts=others, label="x").failed
    assert list(failed) == [0, 1]
    assert "siss: 'a cat' names no training image to unlearn" in failed[0]


def test_only_one_kind_of_prompt(run: Run, model: Model) -> None:
    tally = generate_fitted(run, model, method_of("pads"), FEW, only="TM")
    assert (tally.total, read_images(tally.run)) == (0, {})
