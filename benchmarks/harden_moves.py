"""Memorized images that are moved, which tell what a never-trained model would predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from harden_stage import Stage
from unmemorize.audit._latents import _pixels as pixels_of
from unmemorize.pipelines import encoded

_PARTS = 16
"""What an image's side is divided by to move it; latents of the bundled model have as many."""


@dataclass(frozen=True)
class Move:
    """What is done to an image, or to its noise.

    Args:
        mirrored: left becomes right.
        quarters: by how many it is turned.
        down, right: by how many sixteenths it is shifted. What leaves it comes in opposite.
    """

    mirrored: bool = False
    quarters: int = 0
    down: int = 0
    right: int = 0

    def of(self, image: Tensor) -> Tensor:
        """Move an image, (..., H, W)."""
        image = image.flip(-1) if self.mirrored else image
        return self._shifted(image.rot90(self.quarters, (-2, -1)), 1)

    def back(self, image: Tensor) -> Tensor:
        """Undo it."""
        image = self._shifted(image, -1).rot90(-self.quarters, (-2, -1))
        return image.flip(-1) if self.mirrored else image

    def _shifted(self, image: Tensor, sign: int) -> Tensor:
        part = image.shape[-1] // _PARTS
        return image.roll((sign * self.down * part, sign * self.right * part), (-2, -1))


MOVES = {
    "turns": tuple(Move(*each) for each in product((False, True), range(4)))[1:],
    "shifts": tuple(Move(*each) for each in product((False, True), (0,), (5, 8, 11), (5, 8, 11))),
}
"""By what choices call them."""


def moved(images: Tensor, moves: Tensor, how: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """Move each image, or move it back, by its own move.

    Args:
        images: or their noise, (B, C, H, W).
        moves: places in how, (B,).
        how: functions of images.
    """
    found = images.clone()
    for number, function in enumerate(how):
        these = moves == number
        found[these] = function(images[these])
    return found


@dataclass(frozen=True)
class Memorized:
    """The memorized images, also moved.

    A model that has memorized an image has not memorized its mirror image, nor the image shifted by
    half of it. To a model that has seen none of them, one is about as likely as the other. So what
    is predicted for the moved image, moved back, is about what a model predicts that was never
    trained on the image.

    Args:
        moves: how they are moved.
        latents: of all images of all plants, (images, channels, H, W).
        moved: as many for each move.
        first, counts: where the images of each plant begin, and how many it has.
    """

    moves: tuple[Move, ...]
    latents: Tensor
    moved: Tensor
    first: Tensor
    counts: Tensor

    @classmethod
    def of(cls, stage: Stage, moves: tuple[Move, ...]) -> Memorized:
        """Encode the images."""
        model = stage.model
        side = model.latent_shape[-1] * model.pipe.vae_scale_factor
        pixels = torch.cat(
            [pixels_of(image, side, side) for target in stage.targets for image in target.images]
        ).to(model.device)
        latents, *others = (
            encoded(model, move.of(pixels)).float().cpu() for move in (Move(), *moves)
        )
        counts = torch.tensor([len(target.images) for target in stage.targets])
        empty = latents.new_zeros(0, *latents.shape)
        kept = torch.stack(others) if others else empty
        return cls(moves, latents, kept, counts.cumsum(0) - counts, counts)

    def chosen(self, places: Tensor, generator: torch.Generator) -> Tensor:
        """Choose one image of each of these plants, as a place in `latents`."""
        shares = torch.rand(len(places), generator=generator, dtype=torch.float32)
        return self.first[places] + (shares * self.counts[places]).long()
