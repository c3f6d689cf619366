from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from conftest import PLANTED_PROMPT, PROMPTS
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
    calibrate_threshold,
    compute_statistics,
)
from unmemorize.export._carried import carried_neurons
from unmemorize.metrics import BundledDescriptor
from unmemorize.ui._studio import Studio


@pytest.fixture
def studio(planted: DiffusionPipeline, tmp_path: Path) -> Iterator[Studio]:
    """Of a tiny model that has memorized one prompt, whose training image is known."""
    Image.new("RGB", (20, 20), (200, 30, 30)).save(tmp_path / "training.png")
    threshold = calibrate_threshold(planted, PROMPTS, settings=NoiseSettings(seeds=4), deviations=3)
    opened = Studio(
        planted,
        compute_statistics(planted, PROMPTS),
        threshold,
        LocalizationSettings(noise=threshold.settings),
        GenerationSettings(steps=2),
        [Prompt(PLANTED_PROMPT, "VM", images=(tmp_path / "training.png",))],
        BundledDescriptor(),
    )
    yield opened
    opened.close()


def test_probing(studio: Studio) -> None:
    found, other = studio.probe(f" {PLANTED_PROMPT} ", 3), studio.probe("c word", 1)
    assert (len(found.images), len(other.images)) == (3, 1)
    assert found.verdict.startswith("Memorized. 4 of 4 seeds")
    assert other.verdict.startswith("No memorization seen.")
    for text, message in (
        ("", "there is no prompt"),
        ("\n ", "there is no prompt"),
        ("x" * 10_001, "has 10001 characters"),
    ):
        with pytest.raises(PromptError, match=message):
            studio.probe(text, 1)


def test_localizing_switching_and_taking_home(studio: Studio) -> None:
    found = studio.localize(PLANTED_PROMPT)
    assert set(found.named.values()) == set(found.neurons)
    assert found.neurons
    scores = [float(name.split("z = ")[1].rstrip(")")) for name in found.named]
    assert scores == sorted(scores, reverse=True)
    made = studio.compare(found.prompt, found.neurons, 0.0, 2)
    assert (len(made.before), len(made.after)) == (2, 2)
    assert made.sentence.startswith("Copy score to the training image")
    assert f"The closest one: {max(made.copies_before):.2f} before" in made.sentence
    alone = studio.compare(Prompt("c word"), Neurons(), 0.0, 1)
    assert np.array_equal(np.asarray(alone.before[0]), np.asarray(alone.after[0]))
    assert "is not known" in alone.sentence
    path = studio.neuron_file(found, found.neurons, 0.5)
    saved = NeuronFile.load(path)
    assert (saved.neurons, saved.scale) == (found.neurons, 0.5)
    loras = {studio.lora(found, saved.neurons, scale) for scale in (0.0, 0.5)}
    assert [carried_neurons(lora).neurons for lora in loras] == [saved.neurons] * 2
    with pytest.raises(NeuronError, match="no neuron is chosen"):
        studio.neuron_file(found, Neurons(), 0.0)


def test_reports_are_of_what_was_localized(studio: Studio) -> None:
    found = studio.localize(PLANTED_PROMPT)
    steps: list[tuple[int, int | None]] = []
    reports = [
        studio.report(found, count, lambda *at: steps.append(at)) for count in (2, 1)
    ]  # another number is another report
    assert reports[0] != reports[1]
    assert steps == [(done, 3) for done in range(3)] * 2
    page = reports[0].read_text(encoding="utf-8")
    assert PLANTED_PROMPT in page
    assert "noise differences" in page
    loaded = studio.load(studio.neuron_file(found, found.neurons, 0.0), PLANTED_PROMPT)
    with pytest.raises(NeuronError, match=r"from a file.*Press Localize"):
        studio.report(loaded, 2)


def test_loading_a_neuron_file(studio: Studio) -> None:
    found = studio.localize(PLANTED_PROMPT)
    path = studio.neuron_file(found, found.neurons, 0.5)
    loaded = studio.load(path, "c word")
    assert (loaded.neurons, loaded.scale, loaded.prompt.text, loaded.localization) == (
        found.neurons,
        0.5,
        "c word",
        None,
    )
    assert not any("z =" in name for name in loaded.named)
    NeuronFile.of(Model(studio.pipe), Neurons()).save(path)
    with pytest.raises(NeuronError, match="there are no neurons in the file"):
        studio.load(path, PLANTED_PROMPT)
    replace(NeuronFile.of(Model(studio.pipe), found.neurons), fingerprint="other").save(path)
    with pytest.raises(NeuronError, match="were found in"):
        studio.load(path, PLANTED_PROMPT)


class StopError(Exception):
    pass


def test_work_tells_how_far_it_is_and_can_be_ended(studio: Studio) -> None:
    seen: list[tuple[int, int | None]] = []

    def end(done: int, total: int | None) -> None:
        seen.append((done, total))
        if len(seen) % 2 == 0:
            raise StopError

    works: list[Callable[[], object]] = [
        lambda: studio.probe(PLANTED_PROMPT, 2, end),
        lambda: studio.localize(PLANTED_PROMPT, end),
        lambda: studio.compare(Prompt("c word"), Neurons(), 0.0, 2, end),
    ]
    for work in works:
        with pytest.raises(StopError):
            work()
    assert seen[:2] == [(2, 4), (4, 4)]  # images times steps
    assert seen[2] == (4, None)  # the unblocked seeds
    assert seen[4:] == [(4, 8), (8, 8)]
    assert not any(module._forward_hooks for module in studio.pipe.unet.modules())


def test_without_a_descriptor_there_is_no_copy_score(studio: Studio) -> None:
    studio._descriptor = None
    assert studio.compare(studio.prompts[0], Neurons(), 0.0, 1).sentence.startswith(
        "There is no copy descriptor for this model"
    )


def test_visitors_have_folders_of_their_own_which_go_at_the_end(studio: Studio) -> None:
    first, second = studio.localize(PLANTED_PROMPT), studio.localize("c word")
    assert first.folder != second.folder
    assert not second.neurons
    studio.close()
    assert not first.folder.exists()
