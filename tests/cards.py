"""What the tests on a card share. They run where there is a card: make test-gpu.

Card and processor compute in float32 and start from the same noise, so they differ by the order of
sums alone. One pass of the denoiser then differs by some 1e-6 of its range, and scores by some
1e-5. Bounds are 1e-3 for these: rounding stays far below it, and mistakes go beyond. Images pass
many steps and the rounding to 8 bits, so copy descriptors compare them: images of one prompt from
other noise are far below .99. UNMEMORIZE_TEST_DEVICE names another device, such as cpu, to try the
tests themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import cast

import pytest
import torch
from PIL import Image
from torch import Tensor

from unmemorize import (
    BundledDescriptor,
    ClosedFormEdit,
    CombinedEdit,
    Edit,
    Erased,
    GenerationSettings,
    Localization,
    Model,
    NeuronEdit,
    Suspect,
    testbed,
)
from unmemorize.generation import PrunedEdit
from unmemorize.methods import method_of

DEVICE = os.environ.get("UNMEMORIZE_TEST_DEVICE", "cuda")
CLOSE = 1e-3
"""The largest difference of numbers, relative to their range."""
ALIKE = 0.99
"""The least similarity of an image of the card to that of the processor."""
MEMORIZED = "fundus photograph of healthy retina"
TEXTS = (MEMORIZED, "chelsea the ginger tabby stares", "a small boat on a calm lake")
FEW = GenerationSettings(images=2, steps=10, guidance=3.0, batch=4)


def assert_close(found: Tensor, expected: Tensor, bound: float = CLOSE) -> None:
    span = float(expected.double().abs().max()) or 1.0
    assert float((found.cpu().double() - expected.double()).abs().max()) <= bound * span


def assert_alike(
    found: Sequence[Image.Image], expected: Sequence[Image.Image], bound: float = ALIKE
) -> None:
    assert len(found) == len(expected) > 0
    descriptor = BundledDescriptor()
    similarity = (descriptor(found) * descriptor(expected)).sum(1)
    assert float(similarity.min()) > bound, similarity


def edits(model: Model) -> dict[str, Edit]:
    """An edit of each kind; the neurons are those of the memorized prompt."""
    layer = next(iter(model.value_layers))
    key = layer.replace("to_v", "to_k")
    neurons = next(each.neurons for each in testbed.planted() if each.prompt.text == MEMORIZED)
    closed = ClosedFormEdit((Erased(MEMORIZED),), keep=testbed.captions("calibration")[:16])
    return {
        "neurons": NeuronEdit(neurons),
        "closed form": closed,
        "pruned": PrunedEdit({layer: tuple(range(0, 4000, 7)), key: (5, 9)}),
        "esd": cast(Edit, method_of("esd=2").fit(model, suspect())),
        "combined": CombinedEdit((closed, NeuronEdit(neurons, 0.5))),
    }


def suspect(localizations: tuple[Localization, ...] = ()) -> Suspect:
    entry = next(each for each in testbed.planted() if each.prompt.text == MEMORIZED)
    return Suspect(
        prompt=entry.prompt,
        localizations=localizations,
        ordinary=testbed.captions("calibration")[:16],
        settings=FEW,
    )


needs_card = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no card"
)


@pytest.fixture(scope="module", autouse=True)
def whole_float32() -> Iterator[None]:
    """Keep torch and its workers from rounding the inputs of convolutions to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVIDIA_TF32_OVERRIDE", "0")
        yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(name="card", scope="module")
def card_fixture() -> Model:
    """The bundled model on the card; tests leave it as it was."""
    return Model.load("testbed", device=DEVICE, dtype="float32")


@pytest.fixture(name="processor", scope="module")
def processor_fixture() -> Model:
    """The bundled model on the processor."""
    return Model.load("testbed", device="cpu")


@pytest.fixture(name="planted", scope="module")
def planted_fixture() -> testbed.Planted:
    return next(entry for entry in testbed.planted() if entry.prompt.text == MEMORIZED)
