"""Encoded prompts: what a denoiser receives besides noisy samples and the timestep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unmemorize._errors import ModelError

Key = tuple[str, ...]
"""The name of an argument, or the names of a dictionary argument and of an entry in it."""
TEXT: Key = ("encoder_hidden_states",)


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser receives for some prompts, besides the noisy samples and the timestep.

    Args:
        samples: arguments whose first dimension is the prompts.
        shared: the other arguments.
    """

    samples: Mapping[Key, Tensor]
    shared: Mapping[Key, Any]

    @property
    def text(self) -> Tensor:
        """Text embeddings, (prompts, tokens, features)."""
        return self.samples[TEXT]

    def with_text(self, text: Tensor) -> Conditioning:
        """Return the same with other text embeddings, (prompts, tokens, features).

        Everything else stays that of the prompts, such as pooled embeddings and masks.
        """
        return Conditioning({**self.samples, TEXT: text}, self.shared)

    @property
    def beside_text(self) -> tuple[str, ...]:
        """What else belongs to each prompt, such as pooled embeddings and masks, by name."""
        return tuple(".".join(key) for key in self.samples if key != TEXT)

    @property
    def all_tokens(self) -> int:
        """How many tokens all text embeddings have together, if there are several (HunyuanDiT)."""
        return sum(
            value.shape[1]
            for key, value in self.samples.items()
            if key[0].startswith(TEXT[0]) and value.ndim == 3
        )

    def __len__(self) -> int:
        return len(self.text)

    def groups(self) -> list[tuple[list[int], Conditioning]]:
        """Return prompts that fit one pass of the denoiser, with their positions."""
        return [(list(range(len(self))), self)]

    def take(self, indices: Sequence[int]) -> Conditioning:
        """Take some prompts in this order, each as often as it is named."""
        rows = list(indices)
        return Conditioning({key: value[rows] for key, value in self.samples.items()}, self.shared)

    def join(self, other: Conditioning) -> Conditioning:
        """Append the prompts of ``other``."""
        if isinstance(other, Ragged) or other.text.shape[1:] != self.text.shape[1:]:
            return separate(
                [part.take([row]) for part in (self, other) for row in range(len(part))]
            )
        samples = {
            key: torch.cat([value, other.samples[key]]) for key, value in self.samples.items()
        }
        return Conditioning(samples, self.shared)

    def arguments(self) -> dict[str, Any]:
        """Return keyword arguments of the denoiser."""
        arguments: dict[str, Any] = {}
        for key, value in (*self.samples.items(), *self.shared.items()):
            inner = arguments if len(key) == 1 else arguments.setdefault(key[0], {})
            inner[key[-1]] = value
        return arguments


@dataclass(frozen=True)
class Ragged(Conditioning):
    """Prompts of unequal lengths, each as its pipeline encodes it alone.

    Padding them to one length would change what the denoiser makes of them, so those of each length
    are passed to it together, and others apart.

    Args:
        prompts: the encoded prompts, one each.
    """

    samples: Mapping[Key, Tensor] = field(init=False, default_factory=dict)
    shared: Mapping[Key, Any] = field(init=False, default_factory=dict)
    prompts: tuple[Conditioning, ...] = ()

    @property
    def text(self) -> Tensor:
        """See `Conditioning`.

        Raises:
            ModelError: always, as no tensor holds texts of unequal lengths.
        """
        raise ModelError("prompts of unequal lengths have no common tensor. Take one prompt.")

    def __len__(self) -> int:
        return len(self.prompts)

    def groups(self) -> list[tuple[list[int], Conditioning]]:
        """See `Conditioning`."""
        positions: dict[object, list[int]] = {}
        for position, prompt in enumerate(self.prompts):
            shapes = frozenset((key, value.shape[1:]) for key, value in prompt.samples.items())
            positions.setdefault(shapes, []).append(position)
        return [(some, _stacked([self.prompts[at] for at in some])) for some in positions.values()]

    def take(self, indices: Sequence[int]) -> Conditioning:
        """See `Conditioning`."""
        return separate([self.prompts[index] for index in indices])

    def join(self, other: Conditioning) -> Conditioning:
        """See `Conditioning`."""
        return separate([*self.prompts, *(other.take([row]) for row in range(len(other)))])


def separate(prompts: Sequence[Conditioning]) -> Conditioning:
    """Make one conditioning of prompts that were encoded one by one."""
    ragged = Ragged(prompts=tuple(prompts))
    groups = ragged.groups()
    return groups[0][1] if len(groups) == 1 else ragged


def _stacked(prompts: Sequence[Conditioning]) -> Conditioning:
    first = prompts[0]
    samples = {key: torch.cat([prompt.samples[key] for prompt in prompts]) for key in first.samples}
    return Conditioning(samples, first.shared)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: unconditional + scale * (conditional - unconditional).

    Args:
        scale: 1 gives the conditional prediction.
        unconditional: the encoded empty prompt.
    """

    scale: float
    unconditional: Conditioning
