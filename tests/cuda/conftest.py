"""Models on a card and on the processor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cards import (
    DEVICE,
    MEMORIZED,
)
from unmemorize import (
    Model,
    testbed,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests where there is no card."""
    if DEVICE != "cuda" or torch.cuda.is_available():
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="there is no card"))


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
