"""Models of each architecture on a card."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from architectures import ARCHITECTURES, make
from cards import (  # noqa: F401 -- fixtures
    CLOSE,
    DEVICE,
    assert_close,
    needs_card,
    whole_float32,
)
from unmemorize import (
    GenerationSettings,
    Localization,
    LocalizationSettings,
    Model,
    Neurons,
    NoiseSettings,
    calibrate_guard,
    calibrate_threshold,
    compute_statistics,
    generate,
    localize,
)

pytestmark = needs_card

GUIDANCE = {name: 0.0 if name in ("Flux", "Qwen-Image") else 2.0 for name in ARCHITECTURES}
"""Flux and Qwen-Image have no guidance in one pass."""


@pytest.fixture(name="tiny", scope="module", params=list(ARCHITECTURES))
def tiny_fixture(request: pytest.FixtureRequest) -> tuple[str, Model, Model]:
    """The name of an architecture, and a tiny pipeline of it on the card and on the processor."""
    return request.param, Model(make(request.param).to(DEVICE)), Model(make(request.param))


def test_noise_of_tiny_models(tiny: tuple[str, Model, Model]) -> None:
    _, card, processor = tiny
    drawn = card.draw_latents(3, 5)
    assert drawn.device.type == DEVICE
    assert torch.equal(drawn.cpu(), processor.draw_latents(3, 5))
    assert card.fingerprint == processor.fingerprint
    assert card.value_input == processor.value_input


def test_predictions_of_tiny_models(tiny: tuple[str, Model, Model]) -> None:
    name, card, processor = tiny
    found, expected = (
        model.predict(
            model.draw_latents(2, 1),
            model.timesteps(10)[4],
            model.encode(["a red cat", "rain"]),
            guidance=model.guidance(GUIDANCE[name]),
        )
        for model in (card, processor)
    )
    assert_close(found, expected)


def test_localizations_of_tiny_models(tiny: tuple[str, Model, Model]) -> None:
    """All steps, one after another, with levels that each prompt passes."""
    name, *models = tiny
    noise = NoiseSettings(seeds=3, guidance=GUIDANCE[name])
    words = [f"prompt {letter}" for letter in "abcdef"]
    found: list[Localization] = []
    for model in models:
        statistics = compute_statistics(model, words)
        threshold = calibrate_threshold(model, words, detector="seed-similarity", settings=noise)
        low = replace(
            threshold,
            detect=replace(threshold.detect, tau=1e-3, cascade=None),
            localize=replace(threshold.localize, tau=1e-3, tau_seeds=1e-3),
        )
        settings = LocalizationSettings(noise=noise, criterion="seeds", theta=2.0, theta_step=0.5)
        found.append(
            localize(model, "zebra quartz", statistics=statistics, threshold=low, settings=settings)
        )
    assert found[0].memorized
    assert found[0].initial == found[1].initial
    assert found[0].initial_score == pytest.approx(found[1].initial_score, rel=CLOSE, abs=CLOSE)


def test_images_of_tiny_models(tiny: tuple[str, Model, Model]) -> None:
    name, *models = tiny
    settings = GenerationSettings(images=2, steps=3, guidance=1.0 + GUIDANCE[name])
    for off in (None, {next(iter(models[0].value_layers)): [1, 3]}):
        found, expected = (
            np.stack(
                [
                    np.asarray(image, dtype=int)
                    for image in generate(
                        model, "a cat", Neurons(off) if off else None, settings=settings
                    )
                ]
            )
            for model in models
        )
        assert np.abs(found - expected).max() <= 2  # steps of 255: rounding at an edge


def test_detectors_of_tiny_models(tiny: tuple[str, Model, Model]) -> None:
    """The default detector, and a guard where there is guidance in one pass."""
    name, card, processor = tiny
    words = [f"prompt {letter}" for letter in "abcd"]
    settings = NoiseSettings(seeds=2)
    found, expected = (
        calibrate_threshold(model, words, settings=settings) for model in (card, processor)
    )
    assert found.detect.scores == pytest.approx(expected.detect.scores, rel=CLOSE, abs=1e-5)
    if name not in ("Flux",):
        taus = [calibrate_guard(model, words).tau for model in (card, processor)]
        assert taus[0] == pytest.approx(taus[1], rel=CLOSE, abs=1e-5)
