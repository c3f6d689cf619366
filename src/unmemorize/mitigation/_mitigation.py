"""The interface of mitigations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from unmemorize._errors import ModelError
from unmemorize._registry import Registry
from unmemorize.generation import Edit
from unmemorize.localization import Localization
from unmemorize.pipelines import Model


class Mitigation(Protocol):
    """Makes an edit that keeps a model from copying the image of one prompt.

    Add one by a class in a module of its own and an entry point of the group
    ``unmemorize.mitigations``; see docs/extending.md.
    """

    @property
    def name(self) -> str:
        """The name in records and options."""
        ...

    def fit(self, model: Model, findings: Localization) -> Edit:
        """Make the edit for a prompt.

        Args:
            model: the model.
            findings: the prompt and what localization found for it.
        """
        ...


MITIGATIONS: Registry[Callable[[], Mitigation]] = Registry(
    "unmemorize.mitigations",
    {"neurons": "unmemorize.mitigation._neurons:SwitchNeuronsOff"},
    ModelError,
)
