"""Functions that are given no settings draw the bundled model as commands do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import make_pipeline
from unmemorize import (
    ComparisonCaptions,
    GenerationSettings,
    HardeningSettings,
    LocalizationRun,
    LocalizationSettings,
    Model,
    Neurons,
    OrdinaryCaptions,
    Prompt,
    Statistics,
    Threshold,
    audit_edit,
    audit_images,
    generate,
    harden,
    localize,
    mitigate,
    testbed,
)
from unmemorize.audit import _public as audits
from unmemorize.generation import _generate
from unmemorize.hardening import _public as hardenings
from unmemorize.mitigation import _public as mitigations

USUAL = (30, 3.0)
PAPER = (50, 7.0)


@pytest.fixture(name="bundled", scope="module")
def bundled_fixture() -> Model:
    return Model.load("testbed", device="cpu")


@pytest.fixture(name="other", scope="module")
def other_fixture() -> Model:
    return Model(make_pipeline())


class _StopError(Exception):
    pass


def _drawn_with(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> GenerationSettings:
    """Return the settings with which a call would draw, and stop it there."""
    seen: list[GenerationSettings] = []

    def opened(*arguments: Any, **_: Any) -> Any:
        settings = getattr(arguments[-1], "settings", arguments[-1])
        seen.append(getattr(settings, "audit", settings).generation)
        raise _StopError

    def generated(*_: Any, settings: GenerationSettings) -> Any:
        seen.append(settings)
        raise _StopError

    for module, name in (
        (mitigations, "open_run"),
        (audits, "open_audit"),
        (audits, "open_image_audit"),
        (hardenings, "open_hardening"),
    ):
        monkeypatch.setattr(module, name, opened)
    monkeypatch.setattr(_generate, "generate_each", generated)
    with pytest.raises(_StopError):
        call()
    return seen[0]


def test_python_draws_the_bundled_model_as_commands_do(
    bundled: Model,
    other: Model,
    bundled_statistics: Statistics,
    bundled_threshold: Threshold,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "one.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "two.png")
    image, control = tmp_path / "one.png", tmp_path / "two.png"
    prompts = [Prompt("a cat", images=(image,))]
    captions = OrdinaryCaptions(("a dog",), ("a car",))
    known: dict[str, Any] = {"statistics": bundled_statistics, "threshold": bundled_threshold}

    def calls(model: Model) -> list[Callable[[], Any]]:
        neurons = Neurons({next(iter(model.value_layers)): [0]})
        return [
            lambda: generate(model, "a cat"),
            lambda: mitigate(model, prompts, captions=captions, **known),
            lambda: audit_edit(model, None, prompts, captions=["a dog"]),
            lambda: audit_images(model, [image], [control], captions=["a dog"]),
            lambda: harden(model, neurons, prompts, captions=captions),
        ]

    for model, (steps, guidance) in ((bundled, USUAL), (other, PAPER)):
        for call in calls(model):
            used = _drawn_with(call, monkeypatch)
            assert (used.steps, used.guidance) == (steps, guidance)


def test_the_bundled_model_is_localized_by_its_own_criterion(bundled: Model) -> None:
    found = localize(bundled, "fundus photograph of healthy retina")
    assert found.criterion == "seeds"
    threshold = Threshold.load(testbed.threshold_path())
    asked = LocalizationSettings(noise=threshold.settings, criterion="unblocked")
    found = localize(bundled, "fundus photograph of healthy retina", settings=asked)
    assert found.criterion == "unblocked"


def test_constructors_take_a_pipeline(
    bundled: Model, bundled_statistics: Statistics, bundled_threshold: Threshold
) -> None:
    made: list[Callable[[Any], Any]] = [
        OrdinaryCaptions.of,
        ComparisonCaptions.of,
        HardeningSettings.of,
        lambda model: LocalizationRun.of(
            model, LocalizationSettings(), bundled_statistics, bundled_threshold
        ),
    ]
    for make in made:
        assert make(bundled.pipe) == make(bundled)
