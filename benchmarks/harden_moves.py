"""Memorized images that are moved, which tell what a model would predict had it not seen them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from harden_stage import Stage
from unmemorize.audit import latent_of
from unmemorize.hardening._shifts import Shift, shifts


@dataclass(frozen=True)
class Turn:
    """Another way to move an image than `Shift`: it is mirrored and turned."""

    mirrored: bool
    quarters: int

    def of(self, image: Tensor, factor: int = 1) -> Tensor:
        """Turn latents or an image, (..., H, W)."""
        del factor
        image = image.flip(-1) if self.mirrored else image
        return image.rot90(self.quarters, (-2, -1))

    def back(self, image: Tensor) -> Tensor:
        """Undo it."""
        image = image.rot90(-self.quarters, (-2, -1))
        return image.flip(-1) if self.mirrored else image


Move = Shift | Turn
MOVES: dict[str, tuple[Move, ...]] = {
    "turns": tuple(Turn(*each) for each in product((False, True), range(4)))[1:],
    "shifts": shifts(16, 16),
}
"""By what choices call them, for latents of the bundled model."""


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

    What is predicted for the moved image, moved back, is close to what a model would predict had it
    never seen the image, see `shifted_latents`.

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
        images = [image for target in stage.targets for image in target.images]
        latents = torch.stack([latent_of(stage.model, image) for image in images]).cpu()
        others = [
            torch.stack([latent_of(stage.model, image, move.of) for image in images]).cpu()
            for move in moves
        ]
        counts = torch.tensor([len(target.images) for target in stage.targets])
        kept = torch.stack(others) if others else latents[:0]
        return cls(moves, latents, kept, counts.cumsum(0) - counts, counts)

    def chosen(self, places: Tensor, generator: torch.Generator) -> Tensor:
        """Choose one image of each of these plants, as a place in `latents`."""
        shares = torch.rand(len(places), generator=generator, dtype=torch.float32)
        return self.first[places] + (shares * self.counts[places]).long()
