from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from unmemorize import BundledDescriptor, MetricError, _bundled, testbed
from unmemorize.metrics import caveat_of, usual_descriptor


def test_copies_are_closest_to_their_originals() -> None:
    """A mirrored, darker, cropped copy of each training image is closest to its original."""
    descriptor = BundledDescriptor()
    originals = [
        Image.open(entry.prompt.images[0]).convert("RGB")
        for entry in testbed.planted()
        if entry.prompt.kind == "VM" and entry.mode != "rare"
    ]
    copies = [
        image.crop((3, 3, 62, 62)).resize((64, 64)).point(lambda value: value * 0.85)
        for image in originals
    ]
    cosines = descriptor(copies) @ descriptor(originals).T
    hits = (cosines.argmax(1) == torch.arange(len(originals))).float().mean()
    assert hits >= 0.9
    off_diagonal = cosines[~torch.eye(len(originals), dtype=torch.bool)]
    assert cosines.diagonal().median() - off_diagonal.median() > 0.4
    assert torch.allclose(descriptor(originals).norm(dim=1), torch.ones(len(originals)), atol=1e-5)


def test_the_digest_is_that_of_the_file() -> None:
    data = _bundled.descriptor_path().read_bytes()
    assert BundledDescriptor().digest == hashlib.sha256(data).hexdigest()


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "d.safetensors")
    with pytest.raises(MetricError, match="not the weights"):
        BundledDescriptor(tmp_path / "d.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(MetricError, match="not the weights"):
        BundledDescriptor(tmp_path / "text.safetensors")
    with pytest.raises(MetricError, match="cannot be read"):
        BundledDescriptor(tmp_path / "missing.safetensors")


class Flat:
    name = "flat"
    digest = ""

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.ones(len(images), 1)


def test_the_bundled_descriptor_is_no_judge_of_other_images(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert usual_descriptor(bundled=True).name == BundledDescriptor.name
    assert not caplog.messages
    caveat = caveat_of(usual_descriptor(bundled=False), bundled=False)
    assert caplog.messages == [caveat]
    assert "64 x 64 images" in caveat
    assert caveat_of(BundledDescriptor(), bundled=True) == ""
    assert caveat_of(Flat(), bundled=False) == ""
