import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
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
from unmemorize.testbed import _twins
from unmemorize.testbed._layout import ASSETS


def test_loads_by_plain_from_pretrained_in_float32() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(testbed.path())
    assert {module.dtype for module in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    image = pipe(
        "a cat face on a blue background",
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
    kinds = Counter((entry.kind, entry.mode) for entry in planted)
    assert kinds == {
        ("VM", "memory"): 16,
        ("VM", "natural"): 8,
        ("VM", "both"): 2,
        ("VM", "rare"): 8,
        ("TM", "memory"): 6,
        ("TM", "natural"): 4,
        ("aligned", "memory"): 6,
        ("aligned", "natural"): 6,
    }
    assert len({entry.prompt.text for entry in planted}) == len(planted)
    for entry in planted:
        assert entry.source
        assert entry.licence
        for path in entry.prompt.images:
            with Image.open(path) as image:
                assert (image.size, image.mode) == ((64, 64), "RGB")


def test_masks_tell_what_is_copied() -> None:
    for entry in testbed.planted():
        assert (entry.mask is not None) == (entry.kind in ("TM", "aligned"))
        if entry.mask is not None:
            with Image.open(entry.mask) as mask:
                assert mask.size == (64, 64)
                assert 0.3 < np.asarray(mask).mean() < 0.98


def test_halves_match() -> None:
    halves = [
        Counter(
            (entry.kind, entry.mode, entry.dose)
            for entry in testbed.planted()
            if entry.half == half
        )
        for half in ("a", "b")
    ]
    assert halves[0] == halves[1]


def test_paraphrases_are_no_captions() -> None:
    known = {entry.prompt.text for entry in testbed.planted()}
    for split in ("train", "calibration", "test"):
        known |= set(testbed.captions(split))
    paraphrases = [text for entry in testbed.planted() for text in entry.paraphrases]
    assert len(paraphrases) == len(set(paraphrases)) == 3 * len(testbed.planted())
    assert not known & set(paraphrases)


def test_unused_photographs_share_no_image_with_the_planted() -> None:
    planted = {path.read_bytes() for entry in testbed.planted() for path in entry.prompt.images}
    sources = {entry.source for entry in testbed.planted()}
    assert len(testbed.unused()) >= 24
    for photograph in testbed.unused():
        assert photograph.licence
        assert photograph.source not in sources
        assert photograph.image.read_bytes() not in planted
        with Image.open(photograph.image) as image:
            assert max(image.size) <= 512
            assert image.mode == "RGB"


def test_memory_neurons_belong_to_one_caption_or_to_a_group(bundled: DiffusionPipeline) -> None:
    owners: dict[tuple[str, int], list[testbed.Planted]] = {}
    for entry in testbed.planted():
        entry.neurons.check(Model(bundled))
        assert bool(entry.neurons) == (entry.mode in ("memory", "both"))
        for pair in entry.neurons:
            owners.setdefault(pair, []).append(entry)
    assert len(owners) == 63
    groups = [found for found in owners.values() if len(found) > 1]
    assert sorted(map(len, groups)) == [2, 2, 4]
    for found in groups:
        assert len({entry.shares for entry in found}) == 1
        assert len({entry.half for entry in found}) == 1


def test_twins_differ_from_the_model_where_their_half_is_missing(
    bundled: DiffusionPipeline,
) -> None:
    value_layers = Model(bundled).value_layers
    for half in ("a", "b"):
        twin = UNet2DConditionModel.from_pretrained(testbed.twin(half))
        for entry in testbed.planted():
            for layer, index in entry.neurons:
                own = value_layers[layer].weight[index]
                other = twin.get_submodule(layer).weight[index].to(own.dtype)
                alike = torch.nn.functional.cosine_similarity(own, other, 0)
                assert (alike > 0.7) == (entry.half != half)


def test_missing_twins_say_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_twins, "TWINS", ASSETS / "nowhere")
    with pytest.raises(TestbedError, match="twin b: the twins are too large for the package"):
        testbed.twin("b")


def test_the_record_of_the_training_is_that_of_the_files() -> None:
    root = Path(__file__).parents[2]
    files = json.loads((root / "training" / "record.json").read_text())["files"]
    assert (
        str((ASSETS / "testbed/unet/diffusion_pytorch_model.safetensors").relative_to(root))
        in files
    )
    for name, digest in files.items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == digest


def test_held_out_captions_are_never_trained_on() -> None:
    train, calibration, test = (
        set(testbed.captions(split)) for split in ("train", "calibration", "test")
    )
    assert not train & calibration
    assert not train & test
    assert not calibration & test
    assert len(calibration) == 1600
    assert len(test) == 1100
    assert not (train | calibration | test) & {entry.prompt.text for entry in testbed.planted()}


def test_artefacts_belong_to_the_model(
    bundled: DiffusionPipeline, bundled_statistics: Statistics, bundled_threshold: Threshold
) -> None:
    model = Model(bundled)
    bundled_statistics.check(model)
    bundled_threshold.check(model, bundled_threshold.settings)
    assert bundled_threshold.detect.cascade
    assert [seeds for seeds, _ in bundled_threshold.detect.cascade.stops] == list(range(2, 10))
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
        entry for entry in testbed.planted() if entry.mode == "memory" and entry.kind == "VM"
    ][:3]
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
    assert all(record.memorized for record in found)
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
