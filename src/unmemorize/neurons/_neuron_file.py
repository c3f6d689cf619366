"""The file that carries a set of neurons from one program to another."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from unmemorize._errors import NeuronError
from unmemorize._files import atomic_write, read_json
from unmemorize.neurons._neurons import Neurons
from unmemorize.pipelines import Model

SCHEMA = "unmemorize.neurons/1"


Operation = Literal["union", "intersection", "difference"]


@dataclass(frozen=True, kw_only=True)
class NeuronFile:
    """Neurons with the model they belong to and how they were found; a JSON file of schema ``unmemorize.neurons/1``."""

    neurons: Neurons
    model: str
    fingerprint: str
    """`Model.fingerprint` of the model the neurons were found in."""
    revision: str | None = None
    scale: float = 0.0
    """What the outputs of the neurons are multiplied by."""
    found: Mapping[str, Any] = field(default_factory=dict)
    """How they were found: command, prompts, threshold; for people."""

    @classmethod
    def of(
        cls,
        model: Model,
        neurons: Neurons,
        *,
        scale: float = 0.0,
        found: Mapping[str, Any] | None = None,
    ) -> NeuronFile:
        """A neuron file for neurons of this model."""
        neurons.check(model)
        name, revision, fingerprint = model.name, model.revision, model.fingerprint
        return cls(
            neurons=neurons,
            model=name,
            revision=revision,
            fingerprint=fingerprint,
            scale=scale,
            found=found or {},
        )

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "scale": self.scale,
            "neurons": self.neurons.to_json(),
            "found": dict(self.found),
        }

    def save(self, path: str | Path) -> None:
        """Write the file; the same content gives the same bytes."""
        atomic_write(
            Path(path), json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n", NeuronError
        )

    def combine(self, other: NeuronFile, operation: Operation) -> NeuronFile:
        """The union, intersection or difference of two files of one model, with the scale of both.

        Raises:
            NeuronError: the files belong to different models or have different scales.
        """
        for name in ("fingerprint", "scale"):
            if getattr(self, name) != getattr(other, name):
                raise NeuronError(
                    f"the two neuron files differ in their {name}: {getattr(self, name)} and {getattr(other, name)}. "
                    f"Combine files of one model and one scale."
                )
        combined = {
            "union": Neurons.__or__,
            "intersection": Neurons.__and__,
            "difference": Neurons.__sub__,
        }[operation]
        found: dict[str, Any] = {operation: [dict(self.found), dict(other.found)]}
        return replace(self, neurons=combined(self.neurons, other.neurons), found=found)

    @classmethod
    def load(cls, path: str | Path) -> NeuronFile:
        """Read a neuron file.

        Raises:
            NeuronError: the file is missing, malformed or of an unknown schema.
        """
        return cls.from_json(read_json(Path(path), NeuronError, "neuron file"), str(path))

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: str) -> NeuronFile:
        """From the content of a file; ``path`` is its name in errors.

        Raises:
            NeuronError: it is malformed or of an unknown schema.
        """
        if content.get("schema") != SCHEMA:
            raise NeuronError(
                f"{path}: schema {content.get('schema')!r}, expected {SCHEMA!r}. Is it a neuron file, made by this version?"
            )
        try:
            layers, scale, revision, found = (
                content["neurons"],
                content["scale"],
                content["revision"],
                content["found"],
            )
            texts = (content["model"], content["fingerprint"])
        except KeyError as problem:
            raise NeuronError(
                f"{path}: the key {problem} is missing. Export the neurons again."
            ) from problem
        well_formed = (
            isinstance(layers, dict)
            and all(isinstance(indices, list) for indices in layers.values())
            and isinstance(scale, (int, float))
            and not isinstance(scale, bool)
            and -1e6 < scale < 1e6
            and (revision is None or isinstance(revision, str))
            and isinstance(found, dict)
            and all(isinstance(text, str) for text in texts)
        )
        if not well_formed:
            raise NeuronError(f"{path}: a value has the wrong type. Export the neurons again.")
        try:
            writable = all(map(_is_writable, _texts(content)))
        except RecursionError:
            writable = False
        if not writable:
            raise NeuronError(
                f"{path}: a text holds control characters or half of a character, or is nested too deep. Export it again."
            )
        try:
            neurons = Neurons(layers)
        except NeuronError as problem:
            raise NeuronError(f"{path}: {problem}") from problem
        return cls(
            neurons=neurons,
            model=texts[0],
            fingerprint=texts[1],
            revision=revision,
            scale=float(scale),
            found=found,
        )

    def check(self, model: Model) -> None:
        """See that the file belongs to the model.

        Raises:
            NeuronError: the model's value layers have other weights, or the neurons do not exist in it.
        """
        if self.fingerprint != model.fingerprint:
            raise NeuronError(
                f"these neurons were found in {self.model} (fingerprint {self.fingerprint[:12]}), but {model.name} has fingerprint "
                f"{model.fingerprint[:12]}. Load the model they belong to, with the same --dtype and --value-layers, or localize "
                f"again."
            )
        self.neurons.check(model)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _is_writable(text: str) -> bool:
    """Whether a text can be encoded and does nothing to a terminal."""
    return all(
        character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs")
        for character in text
    )
