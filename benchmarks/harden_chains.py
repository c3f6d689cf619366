"""Attacks that go on while the model is trained, and begin anew when they are old."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmemorize.audit import STARTS, Start

_MEAN, _SQUARE, _SMALL = 0.9, 0.999, 1e-8
"""What Adam forgets per step, and what keeps it from dividing by 0."""


@dataclass(frozen=True)
class Origins:
    """Where attacks start.

    Args:
        own: the encoded caption of each memorized image, (images, tokens, features).
        others: encoded ordinary captions, (captions, tokens, features).
    """

    own: Tensor
    others: Tensor

    def draw(self, place: int, start: Start, generator: torch.Generator) -> Tensor:
        """Return the embedding with which an attack on an image starts."""
        if start == "prompt":
            return self.own[place]
        if start == "noise":
            drawn = torch.randn(self.own.shape[1:], generator=generator, dtype=torch.float32)
            return drawn.to(self.own.device)
        return self.others[int(torch.randint(len(self.others), (), generator=generator))]


class Chains:
    """Attacks on all images side by side, each with its own Adam and its own age.

    Training and attack share the passes of the denoiser: a step moves the weights against the
    attacks, and the attacks against the weights. So attacks of every age are always at hand, and
    none of them has to be stored.

    Args:
        origins: where they start.
        starts: the chains of each image.
        life: after how many steps a chain begins anew.
        rate: the learning rate.
        generator: of their first ages and starts, on the CPU.
    """

    def __init__(
        self,
        origins: Origins,
        starts: Sequence[Start] = STARTS,
        *,
        life: int = 50,
        rate: float = 0.1,
        generator: torch.Generator,
    ) -> None:
        images = len(origins.own)
        self.places = [place for place in range(images) for _ in starts]
        """The image of each chain."""
        self._starts = [start for _ in range(images) for start in starts]
        self._origins, self._life, self._rate = origins, life, rate
        count = len(self.places)
        self.ages = torch.zeros(count, dtype=torch.float64)
        """Steps since the start of each chain, on the CPU."""
        self._left = torch.randint(1, life + 1, (count,), generator=generator)
        self.value = torch.stack(
            [
                origins.draw(place, start, generator)
                for place, start in zip(self.places, self._starts, strict=True)
            ]
        ).float()
        """Their embeddings, (chains, tokens, features)."""
        self._mean = torch.zeros_like(self.value)
        self._square = torch.zeros_like(self.value)

    def advance(self, gradient: Tensor, generator: torch.Generator) -> list[tuple[int, Tensor]]:
        """Take a step of Adam, and start old chains anew.

        Args:
            gradient: of each chain's own loss, (chains, tokens, features).
            generator: of new starts, on the CPU.

        Returns:
            What chains have found that were old: the image and the embedding of each.
        """
        self.ages += 1
        shape = (-1, 1, 1)
        mean = (1 - _MEAN**self.ages).view(shape).to(gradient)
        square = (1 - _SQUARE**self.ages).view(shape).to(gradient)
        self._mean.lerp_(gradient, 1 - _MEAN)
        self._square.lerp_(gradient.square(), 1 - _SQUARE)
        size = (self._square / square).sqrt() + _SMALL
        self.value = self.value.detach() - self._rate * (self._mean / mean) / size
        self._left -= 1
        found = []
        for chain in (self._left == 0).nonzero().flatten().tolist():
            found.append((self.places[chain], self.value[chain].clone()))
            self.value[chain] = self._origins.draw(
                self.places[chain], self._starts[chain], generator
            )
            self._mean[chain] = 0
            self._square[chain] = 0
            self.ages[chain] = 0
            self._left[chain] = self._life
        return found
