from __future__ import annotations

from collections.abc import Iterator
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
from unmemorize.export import read_lora
from unmemorize.metrics import BundledDescriptor
from unmemorize.ui import Studio


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
    for text, message in (("", "there is no prompt"), ("\n ", "there is no prompt"), ("x" * 10_001, "has 10001 characters")):
        with pytest.raises(PromptError, match=message):
            studio.probe(text, 1)


def test_localizing_switching_and_taking_home(studio: Studio) -> None:
    found = studio.localize(PLANTED_PROMPT)
    assert len(found.neurons) == len(found.localization.neurons) > 0
    scores = [float(name.split("z = ")[1].rstrip(")")) for name in found.neurons]
    assert scores == sorted(scores, reverse=True)
    made = studio.compare(found.prompt, found.localization.neurons, 0.0, 2)
    assert (len(made.before), len(made.after)) == (2, 2)
    assert made.sentence.startswith("Copy score to the training image")
    alone = studio.compare(Prompt("c word"), Neurons(), 0.0, 1)
    assert np.array_equal(np.asarray(alone.before[0]), np.asarray(alone.after[0]))
    assert "is not known" in alone.sentence
    path = studio.neuron_file(found, found.localization.neurons, 0.5)
    saved = NeuronFile.load(path)
    assert (saved.neurons, saved.scale) == (found.localization.neurons, 0.5)
    assert read_lora(studio.lora(found, saved.neurons, 0.0)).neurons == saved.neurons
    report = studio.report(found, 2)
    assert PLANTED_PROMPT in report.read_text(encoding="utf-8")
    loaded = studio.load(path, PLANTED_PROMPT)
    assert set(loaded.neurons.values()) == set(found.neurons.values())
    with pytest.raises(NeuronError, match="no neuron is chosen"):
        studio.neuron_file(found, Neurons(), 0.0)
    NeuronFile.of(Model(studio.pipe), Neurons()).save(path)
    with pytest.raises(NeuronError, match="there are no neurons in the file"):
        studio.load(path, PLANTED_PROMPT)
    replace(saved, fingerprint="other").save(path)
    with pytest.raises(NeuronError, match="were found in"):
        studio.load(path, PLANTED_PROMPT)


def test_visitors_have_folders_of_their_own_which_go_at_the_end(studio: Studio) -> None:
    first, second = studio.localize(PLANTED_PROMPT), studio.localize("c word")
    assert first.run != second.run
    assert not second.neurons
    studio.close()
    assert not first.run.exists()
