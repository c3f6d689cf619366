"""Shifted images, which tell what a model would predict had it never seen an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from PIL import Image
from torch import Tensor

from unmemorize.audit import latent_of
from unmemorize.pipelines import Model

_SIXTEENTHS = (5, 8, 11)
"""Shifts, in sixteenths of a side."""


@dataclass(frozen=True)
class Shift:
    """A shift of an image, its latents or their noise. What leaves on a side comes in opposite it.

    Args:
        mirrored: whether left becomes right.
        down, right: by how many latents.

    Examples:
        >>> import torch
        >>> shift = Shift(mirrored=True, down=0, right=1)
        >>> shift.of(torch.tensor([[[1, 2, 3]]])).tolist()
        [[[1, 3, 2]]]
        >>> shift.back(shift.of(torch.tensor([[[1, 2, 3]]]))).tolist()
        [[[1, 2, 3]]]
    """

    mirrored: bool
    down: int
    right: int

    def of(self, image: Tensor, factor: int = 1) -> Tensor:
        """Shift latents, (..., H, W), or an image of ``factor`` pixels for each of them."""
        image = image.flip(-1) if self.mirrored else image
        return image.roll((self.down * factor, self.right * factor), (-2, -1))

    def back(self, latents: Tensor) -> Tensor:
        """Undo it."""
        latents = latents.roll((-self.down, -self.right), (-2, -1))
        return latents.flip(-1) if self.mirrored else latents


def shifts(height: int, width: int) -> tuple[Shift, ...]:
    """Return all shifts for latents of this size: by a third to two thirds of each side.

    Examples:
        >>> len(shifts(64, 64)), shifts(64, 64)[0]
        (18, Shift(mirrored=False, down=20, right=20))
    """
    return tuple(
        Shift(mirrored, round(height * down / 16), round(width * right / 16))
        for mirrored, down, right in product((False, True), _SIXTEENTHS, _SIXTEENTHS)
    )


def shifted_latents(model: Model, images: Sequence[Image.Image]) -> Tensor:
    """Encode images under all shifts, (images, shifts, C, H, W), on the CPU.

    A model that has memorized an image has not memorized the image shifted by half its side. To a
    model that has seen neither, one is about as likely as the other. So what is predicted for the
    shifted image, shifted back, is close to what a model would predict had it never seen the image.

    Args:
        model: the model.
        images: of any size.

    Raises:
        AuditError: the autoencoder is of another kind.
    """
    every = shifts(*model.latent_shape[1:])
    rows = [torch.stack([latent_of(model, image, shift.of) for shift in every]) for image in images]
    return torch.stack(rows).cpu()
