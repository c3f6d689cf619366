"""What is differentiated does not depend on whether the caller has switched gradients off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from conftest import make_pipeline
from unmemorize import (
    GenerationSettings,
    Intervention,
    Model,
    NoiseSettings,
    Prompt,
    Suspect,
    calibrate_threshold,
    detect,
    generate,
    memorized_region,
)
from unmemorize.detection import Curvature
from unmemorize.engines import Finished, InProcess, UnitFunction, units_of
from unmemorize.generation import WeightEdit
from unmemorize.methods import method_of
from unmemorize.pipelines import without_text

Mode = Callable[[], AbstractContextManager[None]]
modes = pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])


@pytest.fixture(name="model")
def model_fixture() -> Model:
    return Model(make_pipeline())


def pixels(model: Model) -> NDArray[np.uint8]:
    settings = GenerationSettings(images=1, steps=2)
    intervention = cast(Intervention, method_of("embedding=4.4"))  # the target after one step
    (image,) = generate(model, "a cat", intervention, settings=settings)
    return np.asarray(image)


def trained(model: Model, image: Path) -> WeightEdit:
    edit = method_of("esd=1").fit(model, Suspect(prompt=Prompt("a cat", images=(image,))))
    assert isinstance(edit, WeightEdit)
    return edit


@modes
def test_methods_that_differentiate(model: Model, mode: Mode, tmp_path: Path) -> None:
    training_image = tmp_path / "image.png"
    Image.effect_noise((16, 16), 50).save(training_image)
    image, edit = pixels(model), trained(model, training_image)
    with mode():
        other_image, other_edit = pixels(Model(model.pipe)), trained(model, training_image)
        assert not torch.is_grad_enabled()
    assert np.array_equal(other_image, image)
    assert other_edit == edit


@modes
def test_maps_that_are_derivatives(model: Model, mode: Mode) -> None:
    detector = Curvature(vectors=2, steps=2)
    expected = memorized_region(model.pipe, "a cat", detector=detector)
    with mode():
        region = memorized_region(model.pipe, "a cat", detector=detector)
    assert np.array_equal(region, expected)


def test_a_pipeline_may_be_loaded_in_inference_mode() -> None:
    """Its weights count no changes, and the default detector once asked them to."""
    prompts, noise = ["one", "two", "three"], NoiseSettings(seeds=2)
    expected = calibrate_threshold(make_pipeline(), prompts, settings=noise)
    with torch.inference_mode():
        pipe = make_pipeline()
    assert next(pipe.unet.parameters()).is_inference()
    assert calibrate_threshold(pipe, prompts, settings=noise) == expected
    assert detect(pipe, "one", threshold=expected).score in expected.detect.scores


@dataclass(frozen=True)
class Modes:
    """Records the mode in which it is prepared and works."""

    kind: str = "modes"
    size: int = 1

    def prepare(self, _model: Model) -> UnitFunction:
        prepared = torch.is_grad_enabled()

        def work(items: Sequence[int]) -> list[Finished]:
            return [Finished([prepared, torch.is_grad_enabled()]) for _ in items]

        return work


@modes
def test_tasks_work_in_one_mode(model: Model, mode: Mode) -> None:
    with mode():
        for _, outcomes in InProcess().outcomes(model, Modes(), units_of(enumerate("ab"), 1)):
            assert not torch.is_grad_enabled()
            assert outcomes == [Finished([True, True])]


def test_what_a_model_remembers_can_be_differentiated_later(model: Model) -> None:
    with torch.inference_mode():
        text = without_text(model).text
    assert not text.is_inference()
