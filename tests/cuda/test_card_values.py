"""Noise, predictions, scores, verdicts and localizations on a card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from cards import (  # noqa: F401 -- fixtures
    CLOSE,
    DEVICE,
    FEW,
    MEMORIZED,
    TEXTS,
    assert_alike,
    assert_close,
    card_fixture,
    needs_card,
    processor_fixture,
    whole_float32,
)
from unmemorize import (
    LocalizationSettings,
    Model,
    NoiseSettings,
    Threshold,
    Trace,
    calibrate_threshold,
    compute_statistics,
    detect,
    generate,
    load_pipeline,
    localize,
    memorized_region,
    testbed,
)
from unmemorize.detection import DETECTORS, as_detector, watched_by
from unmemorize.localization import RefinementMethod
from unmemorize.statistics import activations

pytestmark = needs_card


def test_the_model_is_on_the_device_and_is_the_same(card: Model, processor: Model) -> None:
    assert card.device.type == DEVICE
    assert next(card.denoiser.parameters()).device.type == DEVICE
    assert card.dtype == torch.float32
    assert card.fingerprint == processor.fingerprint


def test_initial_noise_is_the_same_bit_for_bit(card: Model, processor: Model) -> None:
    drawn = card.draw_latents(5, 7)
    assert drawn.device.type == DEVICE
    assert torch.equal(drawn.cpu(), processor.draw_latents(5, 7))


@pytest.mark.parametrize("guidance", [0.0, 7.0])
def test_predictions(card: Model, processor: Model, guidance: float) -> None:
    found, expected = (
        model.predict(
            model.draw_latents(3, 1),
            model.timesteps(50)[step],
            model.encode(TEXTS),
            guidance=model.guidance(guidance),
        )
        for model in (card, processor)
        for step in [20]
    )
    assert found.device.type == DEVICE
    assert_close(found, expected)


def test_replaying_is_exact(card: Model) -> None:
    """Else each pass of a localization runs whole."""
    assert card.replay_plan(list(card.value_layers), 10).exact


@pytest.mark.parametrize("name", DETECTORS.names())
def test_scores(card: Model, processor: Model, name: str) -> None:
    detector: Any = as_detector(name)
    if hasattr(detector, "guidance"):
        detector = replace(detector, steps=8, **({"last": 2} if hasattr(detector, "last") else {}))
    found, expected = (
        detector.score(Trace(model, TEXTS, watched=watched_by(detector)))
        for model in (card, processor)
    )
    values = torch.tensor([score.value for score in expected])
    assert_close(torch.tensor([score.value for score in found]), values)
    assert [score.samples for score in found] == [score.samples for score in expected]


@pytest.mark.parametrize("rule", ["1 %", "5 %", "seed similarity"])
def test_verdicts(card: Model, processor: Model, rule: Any) -> None:
    threshold = Threshold.load(testbed.threshold_path(rule))
    for text in TEXTS:
        found, expected = (detect(model, text, threshold=threshold) for model in (card, processor))
        assert found.memorized == expected.memorized == (text != TEXTS[2])
        assert found.score == pytest.approx(expected.score, rel=CLOSE)


def test_verdicts_with_rounded_convolutions(card: Model, processor: Model) -> None:
    """As torch has it by default: TF32 has the mantissa of float16."""
    torch.backends.cudnn.allow_tf32 = True
    try:
        found = [detect(card, text) for text in TEXTS]
    finally:
        torch.backends.cudnn.allow_tf32 = False
    expected = [detect(processor, text) for text in TEXTS]
    assert [each.memorized for each in found] == [each.memorized for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, rel=2e-2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(processor: Model, dtype: str) -> None:
    half = Model.load("testbed", device=DEVICE, dtype=dtype)
    assert str(half.dtype) == f"torch.{dtype}"
    tau = Threshold.load(testbed.threshold_path("seed similarity")).detect.tau
    threshold = Threshold.given(half, tau, NoiseSettings())
    found = [detect(half, text, threshold=threshold) for text in TEXTS]
    assert [each.memorized for each in found] == [True, True, False]
    images = [generate(model, MEMORIZED, settings=FEW) for model in (half, processor)]
    assert_alike(images[0], images[1], bound=0.9)


def test_a_backward_pass_in_half_precision(processor: Model) -> None:
    """Without --dtype a card computes in float16, and refinement differentiates."""
    half = Model.load("testbed", device=DEVICE, dtype="float16")
    found, expected = (localize(model, MEMORIZED) for model in (half, processor))
    assert found.effects is not None
    assert found.effects.measured_by == "backward"
    assert set(found.neurons) & set(expected.neurons)


def test_a_moved_pipeline_forgets_what_it_made_elsewhere() -> None:
    pipe = load_pipeline("testbed", device="cpu")
    model = Model(pipe)
    before = detect(model, MEMORIZED)
    region = memorized_region(model, MEMORIZED)
    cast(Any, pipe).to(DEVICE)
    assert detect(model, MEMORIZED).score == pytest.approx(before.score, rel=CLOSE)
    assert_close(torch.tensor(memorized_region(model, MEMORIZED)), torch.tensor(region))


@pytest.mark.parametrize("refinement", ["complete", "bisect", "greedy"])
def test_localizations(card: Model, processor: Model, refinement: RefinementMethod) -> None:
    settings = LocalizationSettings(refinement=refinement)
    texts = TEXTS if refinement == "complete" else TEXTS[:1]
    for text in texts:
        found, expected = (localize(model, text, settings=settings) for model in (card, processor))
        assert found.memorized == expected.memorized == (text != TEXTS[2])
        assert found.criterion == expected.criterion
        assert found.initial == expected.initial
        assert found.neurons == expected.neurons
        if found.memorized:
            assert found.score == pytest.approx(expected.score, rel=CLOSE, abs=CLOSE)
            assert found.work == expected.work


def test_statistics(card: Model, processor: Model, tmp_path: Path) -> None:
    captions = testbed.captions("calibration")[:24]
    found, expected = (
        compute_statistics(model, captions, batch=8, raw=tmp_path / str(number))
        for number, model in enumerate((card, processor))
    )
    for layer, mean in expected.mean.items():
        assert_close(found.mean[layer], mean)
        assert_close(found.std[layer], expected.std[layer])
    activation = activations(card, card.encode(TEXTS))
    assert found.z_scores({path: value[0] for path, value in activation.items()}).keys() == (
        activation.keys()
    )


def test_thresholds(card: Model, processor: Model) -> None:
    captions = testbed.captions("calibration")[:12]
    found, expected = (
        calibrate_threshold(model, captions, detector="anisotropy") for model in (card, processor)
    )
    assert found.detect.tau == pytest.approx(expected.detect.tau, rel=CLOSE, abs=CLOSE)
    assert found.localize.tau == pytest.approx(expected.localize.tau, rel=CLOSE)
