"""Networks from files: TorchScript, which is code and needs its hash, and ONNX, which is data."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from unmemorize._errors import MetricError, first_line
from unmemorize._files import as_path, read_bytes
from unmemorize._paths import is_file
from unmemorize.metrics._read_image import to_rgb

SSCD_URL = "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchscript.pt"
SSCD_SHA256 = "9f26bd4c848cc19b73d2ae92eea6e04886f61a7b764ceb7a13aeee62e6a6db56"
SSCD_SIDE = 320
"""Images are squashed to 320 x 320, the authors' recommendation for batches."""

_LARGEST = 16 * 1024**3
"""Bytes, more than any network that compares images."""
_MEAN = (0.485, 0.456, 0.406)
"""Of the colours of ImageNet."""
_STD = (0.229, 0.224, 0.225)
"""Of the colours of ImageNet."""


class FileDescriptor:
    """A copy descriptor from a TorchScript or ONNX file.

    The network takes RGB images, (B, 3, side, side), normalised by the mean and standard deviation
    of ImageNet, and returns vectors, (B, D).

    Args:
        path: an ``.onnx`` file; any other file is read as TorchScript.
        side: images are squashed to this side length in pixels by PIL's antialiased bilinear
            filter.
        sha256: the expected hash, as hexadecimal. TorchScript is refused without it.

    Raises:
        MetricError: the file is missing, has another hash or holds no such network, or onnxruntime
            is not installed.
    """

    def __init__(
        self, path: str | Path, *, side: int = SSCD_SIDE, sha256: str | None = None
    ) -> None:
        self.path = Path(path)
        self.side = side
        self._sha256 = sha256
        self.name = self.path.name.split(".")[0]
        data, self.digest = _read(self.path, sha256)
        is_onnx = self.path.suffix == ".onnx"
        self._run: Any = _onnx(self.path, data) if is_onnx else _script(self.path, data, sha256)

    @classmethod
    def sscd(cls, path: str | Path) -> FileDescriptor:
        """Load SSCD (Pizzi et al., CVPR 2022), the descriptor of the paper's metrics.

        Args:
            path: the file ``sscd_disc_mixup.torchscript.pt``.

        Raises:
            MetricError: the file is missing or has another hash.
        """
        if not is_file(as_path(path, MetricError, "file of SSCD")):
            raise MetricError(
                f"{path}: there is no such file. Download it first: unmemorize fetch sscd"
            )
        return cls(path, side=SSCD_SIDE, sha256=SSCD_SHA256)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path and the hash: a network from a file cannot be pickled itself."""
        make = partial(FileDescriptor, self.path, side=self.side, sha256=self._sha256)
        return make, ()

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return embeddings, (N, D), float32, each of norm 1.

        Raises:
            MetricError: the network does not take such images, or does not return one vector for
                each.
        """
        side = (self.side, self.side)
        arrays = [
            np.asarray(to_rgb(image).resize(side, Image.Resampling.BILINEAR), dtype=np.float32)
            for image in images
        ]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255
        mean, deviation = (
            torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (_MEAN, _STD)
        )
        normalised = (pixels - mean) / deviation
        try:
            vectors = self._run(normalised)
        except Exception as problem:  # a network from a file may raise anything
            reason = str(problem).strip().split("\n")[-1]
            shape = tuple(normalised.shape)
            raise MetricError(
                f"{self.path}: does not take images of shape {shape} ({reason}). Is the size right?"
            ) from problem
        is_tensor = isinstance(vectors, Tensor)
        if not is_tensor or vectors.ndim != 2 or len(vectors) != len(images):
            returned = tuple(vectors.shape) if is_tensor else type(vectors).__name__
            raise MetricError(
                f"{self.path}: returns {returned} for {len(images)} image(s), "
                "not one vector for each. Use a copy descriptor."
            )
        return F.normalize(vectors.float(), dim=1)


def load_script(path: str | Path, sha256: str | None) -> tuple[Any, str]:
    """Load a TorchScript module on the CPU.

    Args:
        path: the file.
        sha256: the expected hash, as hexadecimal. Without it the file is refused.

    Returns:
        The module, and its hash.

    Raises:
        MetricError: the file is missing, has another hash or is not TorchScript, or no hash is
            given.
    """
    path = Path(path)
    data, digest = _read(path, sha256)
    return _script(path, data, sha256), digest


def _read(path: Path, expected: str | None) -> tuple[bytes, str]:
    """Return the content of a file and its hash, which must be the expected one if there is one."""
    data = read_bytes(path, MetricError, "network", _LARGEST)
    digest = hashlib.sha256(data).hexdigest()
    if expected is not None and digest != expected.lower():
        raise MetricError(
            f"{path}: its SHA-256 is {digest}, expected {expected}. "
            "It is damaged or another file, and was not loaded. Download it again."
        )
    return data, digest


def _script(path: Path, data: bytes, sha256: str | None) -> Any:
    if sha256 is None:
        raise MetricError(
            f"{path}: TorchScript is code, and runs with your rights. Give the SHA-256 that its "
            f"publisher states (this file has {hashlib.sha256(data).hexdigest()})."
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
            return torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
    except (RuntimeError, ValueError) as problem:
        raise MetricError(
            f"{path}: not a TorchScript module ({first_line(problem)}). Download it again."
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
        input_name = session.get_inputs()[0].name
    except Exception as problem:  # onnxruntime has an error type for each fault of a file
        raise MetricError(
            f"{path}: not an ONNX network ({first_line(problem)}). Download it again."
        ) from problem

    def run(pixels: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(session.run(None, {input_name: pixels.numpy()})[0]))

    return run
