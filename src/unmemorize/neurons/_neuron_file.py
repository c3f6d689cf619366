"""The file that carries a set of neurons from one program to another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from diffusers import DiffusionPipeline

from unmemorize._errors import NeuronError
from unmemorize._files import (
    as_path,
    atomic_write,
    from_json,
    read_json,
    refuse_unprintable,
    to_json,
)
from unmemorize.neurons._neurons import HasNeurons, Neurons, neurons_in, scale_of
from unmemorize.neurons._switching import LARGEST_SCALE, check_scale
from unmemorize.pipelines import Model

SCHEMA = "unmemorize.neurons/1"
_WAY_OUT = "Export the neurons again."

Operation = Literal["union", "intersection", "difference"]


@dataclass(frozen=True, kw_only=True)
class NeuronFile:
    """Neurons with the model they belong to; a JSON file of schema ``unmemorize.neurons/1``.

    Args:
        neurons: the set.
        model: the name of the model, for people.
        fingerprint: `Model.fingerprint` of the model the neurons were found in.
        revision: the model's revision on the Hub; None if it has none.
        scale: what the outputs of the neurons are multiplied by, in (-1e6, 1e6).
        found: how they were found (command, prompts, threshold), for people.

    Raises:
        NeuronError: the scale is out of its range.
    """

    neurons: Neurons
    model: str
    fingerprint: str
    revision: str | None = None
    scale: float = 0.0
    found: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_scale(self.scale)

    @classmethod
    def of(
        cls,
        model: DiffusionPipeline | Model,
        neurons: Neurons | HasNeurons,
        *,
        scale: float | None = None,
        found: Mapping[str, Any] | None = None,
    ) -> NeuronFile:
        """Make the file of some neurons of a model.

        Args:
            model: a loaded pipeline, or a `Model` of it.
            neurons: neurons of this model, also as a localization.
            scale: what their outputs are multiplied by, by default 0.
            found: how they were found, for people.

        Raises:
            NeuronError: the neurons do not exist in the model.
        """
        model = Model.of(model)
        return cls(
            neurons=neurons_in(model, neurons),
            model=model.name,
            fingerprint=model.fingerprint,
            revision=model.revision,
            scale=scale_of(neurons, scale),
            found=found or {},
        )

    @classmethod
    def load(cls, path: str | Path) -> NeuronFile:
        """Read a neuron file.

        Raises:
            NeuronError: the file is missing, malformed or of an unknown schema.
        """
        file = as_path(path, NeuronError, "neuron file")
        return cls.from_json(read_json(file, NeuronError, "neuron file"), str(path))

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: str) -> NeuronFile:
        """Make a neuron file from its JSON object.

        Args:
            content: the object.
            path: the name of the file, for errors.

        Raises:
            NeuronError: the content is malformed or of an unknown schema.
        """
        schema = content.get("schema")
        if schema != SCHEMA:
            raise NeuronError(
                f"{path}: schema {schema!r}, expected {SCHEMA!r}. "
                "Make sure it is a neuron file, exported by this version."
            )
        refuse_unprintable(content, NeuronError, path, _WAY_OUT)
        file = from_json(
            _Content, content, NeuronError, f"{path}: not a valid neuron file", _WAY_OUT
        )
        return cls(
            neurons=file.neurons,
            model=file.model,
            fingerprint=file.fingerprint,
            revision=file.revision,
            scale=file.scale,
            found=file.found,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        content: dict[str, Any] = to_json(
            _Content(
                schema=SCHEMA,
                model=self.model,
                revision=self.revision,
                fingerprint=self.fingerprint,
                scale=self.scale,
                neurons=self.neurons,
                found=dict(self.found),
            )
        )
        return content

    def save(self, path: str | Path) -> None:
        """Write the file. The same content gives the same bytes.

        Raises:
            NeuronError: the file cannot be written.
        """
        text = json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n"
        atomic_write(Path(path), text, NeuronError)

    def combine(self, other: NeuronFile, operation: Operation) -> NeuronFile:
        """Combine two files of the same model and scale.

        Args:
            other: the second file.
            operation: "union", "intersection", or "difference" (this file without the other).

        Raises:
            NeuronError: the files belong to different models or have different scales.
        """
        for name in ("fingerprint", "scale"):
            here, there = getattr(self, name), getattr(other, name)
            if here != there:
                raise NeuronError(
                    f"the two neuron files differ in their {name}: {here} and {there}. "
                    "Combine files of one model and one scale."
                )
        combined = {
            "union": Neurons.__or__,
            "intersection": Neurons.__and__,
            "difference": Neurons.__sub__,
        }[operation]
        found: dict[str, Any] = {operation: [dict(self.found), dict(other.found)]}
        return replace(self, neurons=combined(self.neurons, other.neurons), found=found)

    def check(self, model: Model) -> None:
        """Refuse a model that the file does not belong to.

        Raises:
            NeuronError: the model has another fingerprint, or the neurons do not exist in it.
        """
        if self.fingerprint != model.fingerprint:
            raise NeuronError(
                f"these neurons were found in {self.model} ({model.contrast(self.fingerprint)}). "
                "Load the model they belong to, with the same --dtype, or localize again."
            )
        self.neurons.check(model)


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What is in the file. Unlike in `NeuronFile` nothing has a default.

    A file that has lost its scale must not be taken for one with scale 0.
    """

    schema: str
    model: str
    revision: str | None
    fingerprint: str
    scale: Annotated[float, msgspec.Meta(gt=-LARGEST_SCALE, lt=LARGEST_SCALE)]
    neurons: Neurons
    found: dict[str, Any]
