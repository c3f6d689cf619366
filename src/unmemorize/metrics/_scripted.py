"""Networks from files of others: TorchScript, which is code and loaded only under its hash, and ONNX, which is data."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from unmemorize._errors import MetricError
from unmemorize._files import read_bytes

SSCD_URL = "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchscript.pt"
SSCD_SHA256 = "9f26bd4c848cc19b73d2ae92eea6e04886f61a7b764ceb7a13aeee62e6a6db56"
SSCD_SIDE = 320
"""Images are squashed to 320 x 320, the authors' recommendation for batches."""

_LARGEST = 16 * 1024**3
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class FileDescriptor:
    """A copy descriptor from a TorchScript or ONNX file that takes RGB images (B, 3, side, side), normalised by ImageNet's mean and
    standard deviation, and returns (B, D).

    Args:
        path: ``.onnx``, or else TorchScript.
        side: images are squashed to this size by PIL's antialiased bilinear filter.
        sha256: the expected hash; needed for TorchScript, which is code.

    Raises:
        MetricError: the file is missing or has another hash, onnxruntime is not installed, or the file holds no such network.
    """

    def __init__(
        self, path: str | Path, *, side: int = SSCD_SIDE, sha256: str | None = None
    ) -> None:
        self.path, self.side, self.name = Path(path), side, Path(path).name.split(".")[0]
        data, self.digest = _read(self.path, sha256)
        self._run: Any = (
            _onnx(self.path, data)
            if self.path.suffix == ".onnx"
            else _script(self.path, data, sha256)
        )

    @classmethod
    def sscd(cls, path: str | Path) -> FileDescriptor:
        """SSCD (Pizzi et al., CVPR 2022), the descriptor of the paper's metrics, from ``sscd_disc_mixup.torchscript.pt``.

        Raises:
            MetricError: the file is missing or another one.
        """
        return cls(path, side=SSCD_SIDE, sha256=SSCD_SHA256)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Embeddings of shape (N, D), float32, each of norm 1.

        Raises:
            MetricError: the network does not take such images or does not return one vector for each.
        """
        side = (self.side, self.side)
        arrays = [
            np.asarray(
                image.convert("RGB").resize(side, Image.Resampling.BILINEAR), dtype=np.float32
            )
            for image in images
        ]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255
        normalised = (pixels - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_STD).view(3, 1, 1)
        try:
            found = self._run(normalised)
        except Exception as problem:  # what a foreign network raises is its own business
            reason = str(problem).strip().split("\n")[-1]
            shape = tuple(normalised.shape)
            raise MetricError(
                f"{self.path}: does not take images of shape {shape} ({reason}). Is the size right?"
            ) from problem
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            returned = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise MetricError(
                f"{self.path}: returns {returned} for {len(images)} image(s), not one vector for each."
            )
        return F.normalize(found.float(), dim=1)


def load_script(path: str | Path, sha256: str | None) -> tuple[Any, str]:
    """A TorchScript module on the CPU, and its hash, which was checked.

    Raises:
        MetricError: the file is missing, has another hash than expected, no hash is expected, or it is no TorchScript.
    """
    path = Path(path)
    data, digest = _read(path, sha256)
    return _script(path, data, sha256), digest


def _read(path: Path, expected: str | None) -> tuple[bytes, str]:
    """The content of a file and its hash, after that was checked where one is expected."""
    data = read_bytes(path, MetricError, "network", _LARGEST)
    digest = hashlib.sha256(data).hexdigest()
    if expected is not None and digest != expected.lower():
        raise MetricError(
            f"{path}: its SHA-256 is {digest}, expected {expected}. It is another file or damaged, and was not loaded. Download it again."
        )
    return data, digest


def _script(path: Path, data: bytes, sha256: str | None) -> Any:
    if sha256 is None:
        raise MetricError(
            f"{path}: TorchScript is code, and runs with your rights. Give its hash as its publisher names it "
            f"(this file has {hashlib.sha256(data).hexdigest()})."
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
            return torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
    except (RuntimeError, ValueError) as problem:
        raise MetricError(
            f"{path}: no TorchScript module ({str(problem).strip().splitlines()[0]}). Download it again."
        ) from problem


def _onnx(path: Path, data: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as problem:
        raise MetricError(
            f"{path}: running ONNX needs onnxruntime. pip install 'unmemorize[onnx]'"
        ) from problem
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0].name
    except Exception as problem:  # onnxruntime has errors of its own for each fault of a file
        raise MetricError(
            f"{path}: no ONNX network ({str(problem).strip().splitlines()[0]}). Download it again."
        ) from problem

    def run(pixels: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(session.run(None, {given: pixels.numpy()})[0]))

    return run
