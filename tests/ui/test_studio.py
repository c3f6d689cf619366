from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import PLANTED_PROMPT, PROMPTS, one_number, planted_pipeline
from unmemorize import (
    GenerationSettings,
    LocalizationSettings,
    Model,
    NeuronError,
    NeuronFile,
    Neurons,
    NoiseSettings,
    Prompt,
    PromptError,
    Statistics,
    Threshold,
    calibrate_threshold,
    compute_statistics,
)
from unmemorize.export._carried import carried_edit
from unmemorize.generation import generate
from unmemorize.metrics import BundledDescriptor
from unmemorize.report import copy_warning
from unmemorize.ui._answers import Comparison, PromptNeurons
from unmemorize.ui._studio import Studio

FEW_STEPS = GenerationSettings(steps=2, seed=5, guidance=3.0)


@pytest.fixture(scope="module")
def model() -> Model:
    """A tiny model that has memorized PLANTED_PROMPT."""
    return Model(planted_pipeline())


@pytest.fixture(scope="module")
def statistics(model: Model) -> Statistics:
    return compute_statistics(model, PROMPTS)


@pytest.fixture(scope="module")
def threshold(model: Model) -> Threshold:
    calibrated = calibrate_threshold(model, PROMPTS, settings=NoiseSettings(seeds=4))
    return one_number(calibrated, max(calibrated.detect.scores) + 0.02)


@pytest.fixture
def open_studio(
    model: Model, statistics: Statistics, threshold: Threshold, tmp_path: Path
) -> Iterator[Callable[..., Studio]]:
    """Opens studios on the model, whose one example has a training image."""
    Image.new("RGB", (20, 20), (200, 30, 30)).save(tmp_path / "training.png")
    opened = []

    def make(**options: Any) -> Studio:
        studio = Studio(
            model,
            statistics,
            threshold,
            LocalizationSettings(noise=threshold.settings),
            FEW_STEPS,
            [Prompt(PLANTED_PROMPT, "VM", images=(tmp_path / "training.png",))],
            **options,
        )
        opened.append(studio)
        return studio

    yield make
    for studio in opened:
        studio.close()


@pytest.fixture
def studio(open_studio: Callable[..., Studio]) -> Studio:
    return open_studio(descriptor=BundledDescriptor())


def plain(studio: Studio, text: str) -> PromptNeurons:
    """A prompt without neurons."""
    return PromptNeurons(studio.prompt(text), Neurons(), Path())


def pixels(images: tuple[Image.Image, ...]) -> list[Any]:
    return [np.asarray(image).tolist() for image in images]


def test_probing(studio: Studio, model: Model) -> None:
    memorized = studio.probe(f" {PLANTED_PROMPT} ", 3)
    other = studio.probe("c word", 1)
    assert (len(memorized.images), len(other.images)) == (3, 1)
    assert memorized.verdict.startswith("Memorized. 4 of 4 seeds")
    assert other.verdict.startswith("No memorization seen.")
    expected = generate(model, "c word", settings=replace(FEW_STEPS, images=1))
    assert pixels(other.images) == pixels(tuple(expected))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no prompt"),
        ("\n ", "there is no prompt"),
        ("x" * 10_001, "has 10001 characters"),
    ],
)
def test_prompts_that_cannot_be_used(studio: Studio, text: str, message: str) -> None:
    works: list[Callable[[], object]] = [
        lambda: studio.probe(text, 1),
        lambda: studio.localize(text),
        lambda: studio.load("neurons.json", text),
    ]
    for work in works:
        with pytest.raises(PromptError, match=message):
            work()


def test_examples_bring_their_training_images(studio: Studio) -> None:
    assert studio.prompt(f"{PLANTED_PROMPT}\n") is studio.prompts[0]
    assert studio.prompt("x" * 10_000).images == ()


def test_localizing(studio: Studio) -> None:
    localized = studio.localize(PLANTED_PROMPT)
    assert localized.neurons
    assert set(localized.labels.values()) == set(localized.neurons)
    z_scores = [float(label.split("z = ")[1].rstrip(")")) for label in localized.labels]
    assert z_scores == sorted(z_scores, reverse=True)
    assert localized.localization is not None
    for label, (layer, index) in localized.labels.items():
        position = localized.neurons.layers[layer].index(index)
        z_score = localized.localization.z_scores[layer][position]
        assert label == f"{layer} #{index} (z = {z_score:.1f})"
    first, *others = localized.labels
    assert set(localized.select([first, "no label"])) == {localized.labels[first]}
    assert len(localized.select(others)) == len(localized.neurons) - 1
    count = len(localized.neurons)
    assert localized.sentence == f"{count} neuron{'s' if count > 1 else ''} localized."


def test_why_there_are_no_neurons(studio: Studio) -> None:
    unmemorized = studio.localize("c word")
    assert not unmemorized.neurons
    assert unmemorized.sentence == "Not memorized, so there are no neurons to switch off."
    memorized = studio.localize(PLANTED_PROMPT)
    without = replace(memorized, neurons=Neurons())
    assert without.sentence.startswith("The prompt is memorized, but no neuron was found")


def test_comparing_the_same_seeds(studio: Studio, model: Model) -> None:
    localized = studio.localize(PLANTED_PROMPT)
    comparison = studio.compare(localized, localized.neurons, 0.5, 2)
    settings = replace(FEW_STEPS, images=2, scale=0.5)
    before = generate(model, PLANTED_PROMPT, settings=settings)
    after = generate(model, PLANTED_PROMPT, localized.neurons, settings=settings)
    assert pixels(comparison.before) == pixels(tuple(before))
    assert pixels(comparison.after) == pixels(tuple(after))
    assert pixels(comparison.before) != pixels(comparison.after)
    descriptor = BundledDescriptor()
    training = descriptor([Image.new("RGB", (20, 20), (200, 30, 30))])
    for images, copies in (
        (before, comparison.copies_before),
        (after, comparison.copies_after),
    ):
        assert torch.tensor(copies) == pytest.approx((descriptor(images) @ training.T)[:, 0])
    assert comparison.warning == copy_warning(comparison.copies_after, localized.theta_exhausted)


def test_scores_in_words() -> None:
    comparison = Comparison(
        before=(), after=(), copies_before=(0.9, 0.5, 0.95), copies_after=(0.3, 0.1, 0.8)
    )
    assert "0.90 before, 0.30 now" in comparison.sentence
    assert "The closest image: 0.95 before, 0.80 now." in comparison.sentence


def test_without_neurons_nothing_changes(studio: Studio) -> None:
    comparison = studio.compare(plain(studio, "c word"), Neurons(), 0.0, 1)
    assert pixels(comparison.before) == pixels(comparison.after)
    assert "training image of this prompt is not known" in comparison.sentence
    assert comparison.warning == ""


class Red:
    """A descriptor whose cosine to a red training image is known: it looks at one pixel."""

    name, digest = "red", "r" * 64

    def __init__(self, *copies: bool) -> None:
        self._copies = copies

    def __call__(self, images: Any) -> torch.Tensor:
        if len(images) == 1:
            return torch.tensor([[1.0, 0.0]])
        return torch.tensor([[1.0, 0.0] if copy else [0.0, 1.0] for copy in self._copies])


def test_a_measured_copy_decides_about_the_warning(open_studio: Callable[..., Studio]) -> None:
    localized = open_studio().localize(PLANTED_PROMPT)
    localization = localized.localization
    assert localization is not None

    def warning(exhausted: bool, descriptor: Any) -> str:
        record = replace(localization, theta_exhausted=exhausted)
        neurons = replace(localized, localization=record)
        return open_studio(descriptor=descriptor).compare(neurons, Neurons(), 0.0, 2).warning

    for exhausted in (False, True):
        left = "a copy is left in 1 of 2 images (worst 1.00)"
        assert warning(exhausted, Red(False, True)) == left
        assert warning(exhausted, Red(False, False)) == ""
    assert warning(True, None) == "theta exhausted, no image measured"
    assert warning(False, None) == ""


def test_without_a_descriptor_there_is_no_copy_score(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio()
    comparison = studio.compare(plain(studio, PLANTED_PROMPT), Neurons(), 0.0, 1)
    assert comparison.sentence.startswith("There is no copy descriptor for this model")


def test_a_training_image_that_is_gone_is_not_known(studio: Studio) -> None:
    studio.prompts[0].images[0].unlink()
    comparison = studio.compare(plain(studio, PLANTED_PROMPT), Neurons(), 0.0, 1)
    assert "training image of this prompt is not known" in comparison.sentence


def test_taking_neurons_home(studio: Studio) -> None:
    localized = studio.localize(PLANTED_PROMPT)
    path = studio.neuron_file(localized, localized.neurons, 0.5)
    saved = NeuronFile.load(path)
    assert (saved.neurons, saved.scale) == (localized.neurons, 0.5)
    assert saved.found["prompt"] == PLANTED_PROMPT
    loras = {studio.lora(localized, saved.neurons, scale) for scale in (0.0, 0.5)}
    carried = [carried_edit(lora) for lora in loras]
    assert [file.neurons for file in carried if isinstance(file, NeuronFile)] == [saved.neurons] * 2
    for write in (studio.neuron_file, studio.lora):
        with pytest.raises(NeuronError, match="no neuron is chosen"):
            write(localized, Neurons(), 0.0)


def test_reports_show_what_was_localized(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio(descriptor=BundledDescriptor())
    localized = studio.localize(PLANTED_PROMPT)
    steps: list[tuple[int, int | None]] = []
    reports = [
        studio.report(localized, images, lambda *at: steps.append(at)) for images in (2, 1)
    ]  # another number is another report
    assert reports[0] != reports[1]
    assert steps == [(done, 3) for done in range(3)] * 2
    page = reports[0].read_text(encoding="utf-8")
    assert PLANTED_PROMPT in page
    assert "noise differences" in page
    assert "SSCD_Orig" in page.split('<article class="card"')[1]
    loaded = studio.load(studio.neuron_file(localized, localized.neurons, 0.0), PLANTED_PROMPT)
    with pytest.raises(NeuronError, match=r"from a file.*Press Localize"):
        studio.report(loaded, 2)
    without = open_studio().report(localized, 1).read_text(encoding="utf-8")
    assert "SSCD_Orig 0" not in without


def test_loading_a_neuron_file(studio: Studio, model: Model) -> None:
    localized = studio.localize(PLANTED_PROMPT)
    path = studio.neuron_file(localized, localized.neurons, 0.5)
    loaded = studio.load(path, "c word")
    assert (loaded.neurons, loaded.scale) == (localized.neurons, 0.5)
    assert (loaded.prompt.text, loaded.localization) == ("c word", None)
    assert loaded.theta_exhausted is None
    assert set(loaded.labels.values()) == set(loaded.neurons)
    assert not any("z =" in label for label in loaded.labels)
    assert loaded.sentence.endswith("in the file.")
    NeuronFile.of(model, Neurons()).save(path)
    with pytest.raises(NeuronError, match="there are no neurons in the file"):
        studio.load(path, PLANTED_PROMPT)
    replace(NeuronFile.of(model, localized.neurons), fingerprint="other").save(path)
    with pytest.raises(NeuronError, match="were found in"):
        studio.load(path, PLANTED_PROMPT)


class StopError(Exception):
    pass


def test_work_tells_how_far_it_is_and_can_be_ended(studio: Studio, model: Model) -> None:
    steps: list[tuple[int, int | None]] = []

    def end(done: int, total: int | None) -> None:
        steps.append((done, total))
        if len(steps) % 2 == 0:
            raise StopError

    works: list[Callable[[], object]] = [
        lambda: studio.probe(PLANTED_PROMPT, 2, end),
        lambda: studio.localize(PLANTED_PROMPT, end),
        lambda: studio.compare(plain(studio, "c word"), Neurons(), 0.0, 2, end),
    ]
    for work in works:
        with pytest.raises(StopError):
            work()
    assert steps[:2] == [(2, 4), (4, 4)]  # images times steps
    assert steps[2] == (4, None)  # the unblocked seeds
    assert steps[4:] == [(4, 8), (8, 8)]
    assert not any(module._forward_hooks for module in model.pipe.unet.modules())


def test_visitors_have_folders_of_their_own_which_go_at_the_end(studio: Studio) -> None:
    first, second = studio.localize(PLANTED_PROMPT), studio.localize("c word")
    assert first.folder != second.folder
    studio.close()
    assert not first.folder.exists()
