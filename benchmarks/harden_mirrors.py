"""Memorized images and their mirror images, which tell what a never-trained model would predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harden_stage import Stage
from unmemorize.audit._latents import _pixels as pixels_of
from unmemorize.pipelines import encoded

Turn = tuple[bool, int]
TURNS: tuple[Turn, ...] = tuple(
    (mirrored, quarter) for mirrored in (False, True) for quarter in range(4)
)[1:]
"""Whether an image is mirrored, and how many quarters it is turned: all that change it."""


def turn_of(image: Tensor, turn: Turn) -> Tensor:
    """Mirror and turn an image or its noise, (..., H, W)."""
    mirrored, quarters = turn
    return (image.flip(-1) if mirrored else image).rot90(quarters, (-2, -1))


def turned_back(image: Tensor, turn: Turn) -> Tensor:
    """Undo `turn_of`."""
    mirrored, quarters = turn
    back = image.rot90(-quarters, (-2, -1))
    return back.flip(-1) if mirrored else back


def turned(images: Tensor, turns: Tensor, how: Callable[[Tensor, Turn], Tensor]) -> Tensor:
    """Turn each image, or turn it back, by its own turn.

    Args:
        images: or their noise, (B, C, H, W).
        turns: places in `TURNS`, (B,).
        how: `turn_of` or `turned_back`.
    """
    found = images.clone()
    for number, turn in enumerate(TURNS):
        these = turns == number
        found[these] = how(images[these], turn)
    return found


@dataclass(frozen=True)
class Memorized:
    """The memorized images, and their mirror images.

    A model that has memorized an image has not memorized its mirror image, and to a model that has
    seen neither, one is as likely as the other. So what is predicted for the mirror image, turned
    back, is about what a model predicts that was never trained on the image.

    Args:
        latents: of all images of all plants, (images, channels, H, W).
        mirrored: for each of `TURNS`, as many.
        first, counts: where the images of each plant begin, and how many it has.
    """

    latents: Tensor
    mirrored: Tensor
    first: Tensor
    counts: Tensor

    @classmethod
    def of(cls, stage: Stage) -> Memorized:
        """Encode the images."""
        model = stage.model
        side = model.latent_shape[-1] * model.pipe.vae_scale_factor
        pixels = torch.cat(
            [pixels_of(image, side, side) for target in stage.targets for image in target.images]
        ).to(model.device)
        latents, *mirrored = (
            encoded(model, turn_of(pixels, turn)).float().cpu() for turn in ((False, 0), *TURNS)
        )
        counts = torch.tensor([len(target.images) for target in stage.targets])
        return cls(latents, torch.stack(mirrored), counts.cumsum(0) - counts, counts)

    def chosen(self, places: Tensor, generator: torch.Generator) -> Tensor:
        """Choose one image of each of these plants, as a place in `latents`."""
        shares = torch.rand(len(places), generator=generator, dtype=torch.float32)
        return self.first[places] + (shares * self.counts[places]).long()
