"""The interface of attacks. This package has none yet; others can register theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from torch import Tensor

from unmemorize._errors import ModelError
from unmemorize._registry import Registry
from unmemorize.generation import Edit
from unmemorize.pipelines import Model


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an attack may spend.

    Args:
        steps: optimization steps or queries.
        radius: the largest distance of an embedding from its start; None for any.
        seed: the seed of everything that the attack draws.
    """

    steps: int
    radius: float | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What an attack would generate with.

    Args:
        prompt: a text, or an embedding (tokens, features).
        samples: denoiser samples spent so far; a backward pass counts as two more.
    """

    prompt: str | Tensor
    samples: float


class Attack(Protocol):
    """Looks for prompts or embeddings that make an edited model copy an image again.

    Add one by a class in a module of its own and an entry point of the group
    ``unmemorize.attacks``; see docs/extending.md.
    """

    @property
    def name(self) -> str:
        """The name in records and options."""
        ...

    def candidates(
        self, model: Model, target: Image.Image, edit: Edit, budget: Budget
    ) -> Iterator[Candidate]:
        """Yield candidates, better ones later, until the budget is spent.

        Args:
            model: the unedited model.
            target: the image that must not come back.
            edit: what is applied while the attack runs.
            budget: what it may spend.
        """
        ...


ATTACKS: Registry[Callable[[], Attack]] = Registry("unmemorize.attacks", {}, ModelError)
