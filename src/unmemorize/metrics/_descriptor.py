"""Copy descriptors, which turn images into unit vectors whose cosine is high for copies.

The bundled one is modelled on SSCD (Pizzi et al., CVPR 2022), for images as small as those of the
bundled model.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from unmemorize import _bundled
from unmemorize._errors import MetricError
from unmemorize._files import read_bytes
from unmemorize.metrics._read_image import to_rgb

_logger = logging.getLogger("unmemorize")


class Descriptor(Protocol):
    """Anything that turns images into unit vectors."""

    @property
    def name(self) -> str:
        """The name that records and reports give with each number."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, as hexadecimal."""
        ...

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return embeddings, (N, D), each of norm 1."""
        ...


class CopyNet(nn.Module):
    """A small residual network from RGB in [-1, 1], (B, 3, 64, 64), to unit vectors (B, 128)."""

    SIDE = 64
    WIDTHS = (32, 64, 96, 128)
    FEATURES = 128
    POWER = 3.0
    """Exponent of the generalised mean over pixels, as in SSCD."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *self.WIDTHS)
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1)
            for before, after in zip(widths, self.WIDTHS, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in self.WIDTHS)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(8, width),
                nn.GELU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for width in self.WIDTHS
        )
        self.head = nn.Linear(self.WIDTHS[-1], self.FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        hidden = images
        for down, norm, block in zip(self.down, self.norms, self.blocks, strict=True):
            hidden = F.gelu(norm(down(hidden)))
            hidden = hidden + block(hidden)  # (B, width, side / 2^level, side / 2^level)
        pooled = hidden.clamp_min(1e-6).pow(self.POWER).mean((2, 3)).pow(1 / self.POWER)
        return F.normalize(self.head(pooled), dim=1)


class BundledDescriptor:
    """The bundled copy descriptor. Images of any size are squashed to 64 x 64.

    Args:
        path: a safetensors file of `CopyNet` weights. The default is the bundled one.

    Raises:
        MetricError: the file is missing or holds other weights.

    Examples:
        >>> image = Image.radial_gradient("L")
        >>> first, second = BundledDescriptor()([image, image.rotate(1)])
        >>> bool(first @ second > 0.9)
        True
    """

    name = "unmemorize-copy-64"

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            path = _bundled.descriptor_path()
        data = read_bytes(path, MetricError, "copy descriptor")
        self.digest = hashlib.sha256(data).hexdigest()
        self._net = CopyNet().float().eval()
        try:
            self._net.load_state_dict({key: tensor.float() for key, tensor in load(data).items()})
        except (SafetensorError, RuntimeError) as problem:
            raise MetricError(
                f"{path}: not the weights of the bundled copy descriptor. "
                "Install the package again."
            ) from problem

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return embeddings, (N, 128), float32, each of norm 1."""
        side = (CopyNet.SIDE, CopyNet.SIDE)
        arrays = [
            np.asarray(to_rgb(image).resize(side, Image.Resampling.BICUBIC), dtype=np.float32)
            for image in images
        ]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1
        embeddings: Tensor = self._net(pixels)
        return embeddings


def caveat_of(descriptor: Descriptor, *, bundled: bool) -> str:
    """Say what the bundled descriptor is made for if the images are others; else nothing.

    Args:
        descriptor: what compares images.
        bundled: whether the model is the bundled one.
    """
    if bundled or not isinstance(descriptor, BundledDescriptor):
        return ""
    return (
        "The bundled copy descriptor is made for the 64 x 64 images of the bundled model. Take its "
        "numbers on other images as a hint, or give SSCD (--sscd, FileDescriptor.sscd)."
    )


def usual_descriptor(*, bundled: bool) -> BundledDescriptor:
    """Return the bundled descriptor, with a warning if it is not made for the model's images.

    Args:
        bundled: whether the model is the bundled one.
    """
    descriptor = BundledDescriptor()
    if caveat := caveat_of(descriptor, bundled=bundled):
        _logger.warning(caveat)
    return descriptor
