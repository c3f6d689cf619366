"""Results do not depend on the default type of torch, which a program may set to half precision."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import pytest
import torch
from PIL import Image
from torch import Tensor

import unmemorize
from conftest import PLANTED_PROMPT, PROMPTS, make_pipeline, plant_neuron
from drawings import a_drawing, drawn
from unmemorize import (
    ClosedFormEdit,
    Erased,
    Intervention,
    Localization,
    LocalizationSettings,
    Model,
    Neurons,
    Statistics,
    Threshold,
    calibrate_threshold,
    compute_statistics,
    localize,
    switched_off,
)
from unmemorize.detection import pairwise_similarity
from unmemorize.localization import RefinementMethod
from unmemorize.methods import method_of
from unmemorize.methods._latents import encoded_images
from unmemorize.metrics import BundledDescriptor

FLOATS = {"zeros", "ones", "empty", "rand", "randn", "eye", "linspace"}
"""Functions that make tensors of the default type where none is named."""
UNEVEN = 7.3
"""No number of half precision."""


@contextmanager
def half() -> Iterator[None]:
    torch.set_default_dtype(torch.float16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def similarities(_model: Model) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 4, 16, 16, generator=generator, dtype=torch.float32)
    return pairwise_similarity((images + images.mean(0)) / 2)


def scaled_neurons(model: Model) -> Tensor:
    layers = {path: range(4) for path in model.value_layers}
    text, timestep = model.encode(PROMPTS[:1]), model.timesteps(50)[1]
    with switched_off(model.pipe, Neurons(layers), scale=UNEVEN):
        return model.predict(model.draw_latents(1, 1), timestep, text)


def guidance(method: str) -> Callable[[Model], Tensor]:
    def draws(model: Model) -> Tensor:
        intervention = cast(Intervention, method_of(method))
        return drawn(model, intervention, a_drawing(model, guidance=UNEVEN))

    return draws


def closed_form(model: Model) -> Tensor:
    edit = ClosedFormEdit((Erased("a cat", weight=UNEVEN),), tuple(PROMPTS))
    model = Model(model.pipe)  # one that does not remember the matrix
    with edit.applied(model, [True]):
        return model.predict(
            model.draw_latents(1, 1), model.timesteps(50)[1], model.encode(["a cat"])
        )


def clean_latents(model: Model) -> Tensor:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        Image.radial_gradient("L").save(path)
        return encoded_images(model, [path], "esd")


def embeddings(_model: Model) -> Tensor:
    return BundledDescriptor()([Image.radial_gradient("L")])


CASES = {
    "similarities": similarities,
    "closed-form": closed_form,
    "training images": clean_latents,
    "descriptor": embeddings,
    "neurons": scaled_neurons,
    **{
        name: guidance(name)
        for name in (
            "static-guidance=900",
            f"opposite-guidance={UNEVEN}",
            "delayed-guidance=1",
            "dynamic-guidance=0.3",
            f"opposite-dynamic={UNEVEN}",
            "attenuation=0.3",
            "attention=1.3",
        )
    },
}


@dataclass(frozen=True)
class Planted:
    model: Model
    statistics: Statistics
    threshold: Threshold

    def localized(self, settings: LocalizationSettings) -> Localization:
        return localize(
            self.model,
            PLANTED_PROMPT,
            statistics=self.statistics,
            threshold=self.threshold,
            settings=settings,
        )


@pytest.fixture(name="planted", scope="module")
def planted_fixture() -> Planted:
    pipe = make_pipeline()
    plant_neuron(pipe, next(iter(Model(pipe).value_layers)), 3)
    model = Model(pipe)
    statistics = compute_statistics(model, PROMPTS)
    return Planted(
        model, statistics, calibrate_threshold(model, PROMPTS, detector="seed-similarity")
    )


@pytest.mark.parametrize("name", list(CASES))
def test_what_is_computed_is_the_same(name: str) -> None:
    model = Model(make_pipeline())
    _ = model.layout
    expected = CASES[name](model)
    with half():
        found = CASES[name](model)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("refinement", ["complete", "greedy"])
def test_localizations_are_the_same(planted: Planted, refinement: RefinementMethod) -> None:
    settings = LocalizationSettings(refinement=refinement)
    expected = planted.localized(settings)
    with half():
        found = planted.localized(settings)
    for name in ("neurons", "score", "trials", "effects"):
        assert getattr(found, name) == getattr(expected, name)


def test_no_tensor_of_floats_is_made_without_a_type() -> None:
    untyped = [
        f"{path.name}:{call.lineno}"
        for path in Path(unmemorize.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and ast.unparse(call.func.value) == "torch"
        and call.func.attr in FLOATS
        and all(keyword.arg != "dtype" for keyword in call.keywords)
    ]
    assert not untyped
