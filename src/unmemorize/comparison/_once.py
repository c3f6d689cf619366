"""A copy descriptor that computes each image once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from unmemorize.metrics import Descriptor


class Once:
    """Computes the descriptor of each image once, and remembers it by the pixels of the image.

    Unedited and training images come back under each method, and some metrics look at the same
    images as the test for copies.

    Args:
        descriptor: computes what is not known yet.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._known: dict[bytes, Tensor] = {}

    @property
    def name(self) -> str:
        """See `Descriptor`."""
        return self._descriptor.name

    @property
    def digest(self) -> str:
        """See `Descriptor`."""
        return self._descriptor.digest

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """See `Descriptor`."""
        keys = [_key(image) for image in images]
        missing = {
            key: image for key, image in zip(keys, images, strict=True) if key not in self._known
        }
        if missing:
            found = self._descriptor(list(missing.values()))
            self._known |= zip(missing, found, strict=True)
        return torch.stack([self._known[key] for key in keys])


def _key(image: Image.Image) -> bytes:
    about = f"{image.mode} {image.size} ".encode()
    return hashlib.sha256(about + image.tobytes()).digest()
