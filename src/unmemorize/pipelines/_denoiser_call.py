"""One call of a denoiser by its pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from unmemorize.pipelines._encoded import TEXT

_TEXT = TEXT[0]


@dataclass(eq=False)
class DenoiserCall:
    """What a denoiser is called with.

    Args:
        arguments: by name. What is changed here is changed for the denoiser.
        sample_name: the name of the argument that holds the noisy samples.
    """

    arguments: dict[str, Any]
    sample_name: str

    @property
    def size(self) -> int:
        """The number of rows of the batch."""
        return len(self.sample)

    @property
    def sample(self) -> Tensor:
        """The noisy samples, (B, C, H, W) or, packed, (B, tokens, features)."""
        sample: Tensor = self.arguments[self.sample_name]
        return sample

    @sample.setter
    def sample(self, sample: Tensor) -> None:
        self.arguments[self.sample_name] = sample

    @property
    def received_time(self) -> float:
        """The timestep as the denoiser receives it; the first if each sample has its own."""
        return float(torch.as_tensor(self.arguments["timestep"]).flatten()[0])

    def at(self, received_time: float) -> DenoiserCall:
        """Return the same call at another timestep.

        Args:
            received_time: the timestep as the denoiser receives it.
        """
        before = torch.as_tensor(self.arguments["timestep"])
        return replace(
            self,
            arguments={**self.arguments, "timestep": torch.full_like(before, received_time)},
        )

    @property
    def text(self) -> Tensor:
        """The text embeddings, (B, tokens, features)."""
        text: Tensor = self.arguments[_TEXT]
        return text

    @text.setter
    def text(self, text: Tensor) -> None:
        self.arguments[_TEXT] = text

    def taken(self, rows: list[int]) -> dict[str, Any]:
        """Return the arguments for some rows of the batch alone."""
        return {name: self._of_rows(value, rows) for name, value in self.arguments.items()}

    def _of_rows(self, value: Any, rows: list[int]) -> Any:
        if isinstance(value, dict):
            return {name: self._of_rows(inner, rows) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):  # such as the images of an IP-Adapter
            return type(value)(self._of_rows(inner, rows) for inner in value)
        if isinstance(value, Tensor) and value.ndim and len(value) == self.size:
            return value[rows]
        return value


@cache  # a hook sees a call in each step
def _names(forward: Hashable) -> tuple[str, ...]:
    """Return the names of the arguments of a method, without ``self``."""
    return tuple(inspect.signature(cast(Callable[..., Any], forward)).parameters)[1:]


def denoiser_call(
    denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> DenoiserCall:
    """Name the arguments with which a hook sees a denoiser called."""
    names = _names(type(denoiser).forward)
    return DenoiserCall({**dict(zip(names, args, strict=False)), **kwargs}, names[0])
