from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

from networks import WEIGHT, Colours, save_onnx, save_script
from unmemorize import FileDescriptor, MetricError
from unmemorize.metrics import SSCD_SHA256

IMAGES = [Image.new("RGB", (40, 30), (200, 10, 60)), Image.new("RGB", (9, 90), (3, 100, 250))]


class Flat(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


class Twice(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images


def by_hand() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    colours = np.array([image.getpixel((0, 0)) for image in IMAGES]) / 255
    rows = (colours - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225] @ WEIGHT.T
    unit: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = rows / np.linalg.norm(
        rows, axis=1, keepdims=True
    )
    return unit


def test_torchscript_by_its_hash(tmp_path: Path) -> None:
    sha256 = save_script(Colours(), tmp_path / "colours.torchscript.pt")
    descriptor = FileDescriptor(tmp_path / "colours.torchscript.pt", side=16, sha256=sha256)
    np.testing.assert_allclose(descriptor(IMAGES).numpy(), by_hand(), atol=1e-5)
    assert (descriptor.name, descriptor.digest) == ("colours", sha256)


def test_onnx(tmp_path: Path) -> None:
    save_onnx(tmp_path / "colours.onnx")
    descriptor = FileDescriptor(tmp_path / "colours.onnx", side=16)
    np.testing.assert_allclose(descriptor(IMAGES).numpy(), by_hand(), atol=1e-5)
    with pytest.raises(MetricError, match="expected 00"):
        FileDescriptor(tmp_path / "colours.onnx", side=16, sha256="00")
    with pytest.raises(MetricError, match=r"does not take images of shape \(2, 3, 20, 20\)"):
        FileDescriptor(tmp_path / "colours.onnx", side=20)(IMAGES)


def test_torchscript_is_never_loaded_without_its_hash(tmp_path: Path) -> None:
    sha256 = save_script(Colours(), tmp_path / "colours.pt")
    with pytest.raises(MetricError, match=f"TorchScript is code.*{sha256}"):
        FileDescriptor(tmp_path / "colours.pt")
    with pytest.raises(MetricError, match=f"its SHA-256 is {sha256}, expected {SSCD_SHA256}"):
        FileDescriptor.sscd(tmp_path / "colours.pt")
    with pytest.raises(MetricError, match=r"Download it first: unmemorize fetch sscd"):
        FileDescriptor.sscd(tmp_path / "none.pt")


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    import hashlib

    for name in ("x.pt", "x.onnx"):
        (tmp_path / name).write_bytes(b"no network")
        with pytest.raises(MetricError, match="Download it again"):
            FileDescriptor(tmp_path / name, sha256=hashlib.sha256(b"no network").hexdigest())
    with pytest.raises(MetricError, match="cannot be read"):
        FileDescriptor(tmp_path / "none.onnx")
    sha256 = save_script(Twice(), tmp_path / "twice.pt")
    with pytest.raises(MetricError, match="returns tuple for 2 image"):
        FileDescriptor(tmp_path / "twice.pt", side=16, sha256=sha256)(IMAGES)
    sha256 = save_script(Flat(), tmp_path / "flat.pt")
    with pytest.raises(MetricError, match=r"returns \(2,\) for 2 image"):
        FileDescriptor(tmp_path / "flat.pt", side=16, sha256=sha256)(IMAGES)


def test_onnx_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    save_onnx(tmp_path / "colours.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MetricError, match=r"pip install 'unmemorize\[onnx\]'"):
        FileDescriptor(tmp_path / "colours.onnx")
