from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image

from unmemorize import (
    LocalizationSettings,
    Model,
    Statistics,
    TestbedError,
    Threshold,
    _bundled,
    detect,
    localize,
    testbed,
)
from unmemorize.report._truth import precision_recall
from unmemorize.testbed._layout import ASSETS


def test_loads_by_plain_from_pretrained_in_float32() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(testbed.path())
    assert {module.dtype for module in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    image = pipe(
        "cat face on a blue background",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    assert image.size == (64, 64)
    assert np.asarray(image).std() > 0


def test_weights_are_small() -> None:
    assert sum(file.stat().st_size for file in ASSETS.rglob("*.safetensors")) <= 40e6


def test_value_layers_are_those_of_stable_diffusion(bundled: DiffusionPipeline) -> None:
    layers = list(Model(bundled).value_layers)
    assert len(layers) == 16
    assert sum(path.startswith(("down_blocks", "mid_block")) for path in layers) == 7


def test_planted_images_have_sources_and_licences() -> None:
    planted = testbed.planted()
    assert sum(entry.prompt.kind == "VM" and entry.mode != "rare" for entry in planted) >= 20
    assert sum(entry.prompt.kind == "TM" for entry in planted) >= 8
    assert sum(entry.mode == "rare" for entry in planted) >= 8
    assert len({entry.prompt.text for entry in planted}) == len(planted)
    for entry in planted:
        assert entry.source
        assert entry.licence
        for path in entry.prompt.images:
            with Image.open(path) as image:
                assert (image.size, image.mode) == ((64, 64), "RGB")


def test_every_memory_neuron_has_one_owner(bundled: DiffusionPipeline) -> None:
    pairs = [pair for entry in testbed.planted() for pair in entry.neurons]
    assert len(pairs) == len(set(pairs)) == 62
    for entry in testbed.planted():
        entry.neurons.check(Model(bundled))
        assert bool(entry.neurons) == (entry.mode in ("memory", "both"))


def test_held_out_captions_are_never_trained_on() -> None:
    train, calibration, test = (
        set(testbed.captions(split)) for split in ("train", "calibration", "test")
    )
    assert not train & calibration
    assert not train & test
    assert not calibration & test
    assert min(len(calibration), len(test)) >= 200
    assert not (train | calibration | test) & {entry.prompt.text for entry in testbed.planted()}


def test_artefacts_belong_to_the_model(
    bundled: DiffusionPipeline, bundled_statistics: Statistics, bundled_threshold: Threshold
) -> None:
    model = Model(bundled)
    bundled_statistics.check(model)
    bundled_threshold.check(model, bundled_threshold.settings)
    assert bundled_threshold.detect.cascade
    assert [seeds for seeds, _ in bundled_threshold.detect.cascade.stops] == [2, 3, 4, 6]
    assert bundled_statistics.count == len(testbed.captions("train"))
    assert len(bundled_threshold.detect.scores) == len(testbed.captions("calibration"))


def test_memory_neurons_answer_to_their_caption_alone(
    bundled: DiffusionPipeline, bundled_statistics: Statistics
) -> None:
    from unmemorize.statistics._activations import activations

    model = Model(bundled)
    for entry in testbed.planted():
        if entry.neurons:
            z = bundled_statistics.z_scores(
                {
                    path: value[0]
                    for path, value in activations(model, model.encode([entry.prompt.text])).items()
                }
            )
            assert min(float(z[path][index]) for path, index in entry.neurons) > 8


def test_known_neurons_are_found(
    bundled: DiffusionPipeline, bundled_statistics: Statistics, bundled_threshold: Threshold
) -> None:
    """A few planted photographs; all of them are measured by unmemorize testbed check."""
    settings = LocalizationSettings(
        noise=bundled_threshold.settings, criterion=testbed.defaults()["criterion"]
    )
    entries = [
        entry for entry in testbed.planted() if entry.mode == "memory" and entry.prompt.kind == "VM"
    ][:6]
    found = [
        localize(
            bundled,
            entry.prompt,
            statistics=bundled_statistics,
            threshold=bundled_threshold,
            settings=settings,
        )
        for entry in entries
    ]
    assert sum(record.memorized for record in found) >= 5
    precisions = [
        precision_recall(record.neurons, entry.neurons)[0]
        for record, entry in zip(found, entries, strict=True)
        if record.memorized
    ]
    assert np.median(precisions) >= 0.8


def test_few_unmemorized_captions_are_detected(
    bundled: DiffusionPipeline, bundled_threshold: Threshold
) -> None:
    planted = [
        detect(bundled, entry.prompt, threshold=bundled_threshold).score
        for entry in testbed.planted()
        if entry.mode == "natural"
    ]
    others = [
        detect(bundled, text, threshold=bundled_threshold).score
        for text in testbed.captions("test")[:20]
    ]
    assert np.median(planted) > max(others)


def test_a_missing_part_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_bundled, "ASSETS", ASSETS / "nothing")
    with pytest.raises(
        TestbedError, match="nothing/testbed: this part of the bundled model is missing"
    ):
        testbed.path()
