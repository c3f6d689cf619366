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
from collections.abc import Sequence
from typing import cast

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
