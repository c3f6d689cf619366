"""Neurons: which outputs of which value layers; and the file that carries them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from unmemorize._errors import NeuronError
from unmemorize._files import atomic_write, read_json
from unmemorize._model import Model

SCHEMA = "unmemorize.neurons/1"
Operation = Literal["union", "intersection", "difference"]


@dataclass(frozen=True)
class Neurons:
    """A set of neurons, frozen: layer path -> sorted indices. Layers without neurons are left out.

    ``len`` counts neurons, iteration yields (layer, index), and ``|``, ``&``, ``-`` are those of sets.

    Raises:
        NeuronError: an index is not a whole number from 0.

    >>> found = Neurons({"attn2.to_v": [7, 3, 3]})
    >>> len(found), found.layers["attn2.to_v"], found - Neurons({"attn2.to_v": [3]})
    (2, (3, 7), Neurons({'attn2.to_v': (7,)}))
    """

    layers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __init__(self, layers: Mapping[str, Iterable[int]] | None = None) -> None:
        clean: dict[str, tuple[int, ...]] = {}
        for layer, indices in (layers or {}).items():
            listed = list(indices)
            if not all(isinstance(index, (int, np.integer)) and not isinstance(index, bool) and index >= 0 for index in listed):
                raise NeuronError(f"{layer}: neuron indices must be whole numbers from 0, got {listed[:5]}. Correct the file.")
            if listed:
                clean[layer] = tuple(sorted({int(index) for index in listed}))
        object.__setattr__(self, "layers", MappingProxyType(clean))

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, int]]) -> Neurons:
        """From (layer, index) pairs."""
        layers: dict[str, list[int]] = {}
        for layer, index in pairs:
            layers.setdefault(layer, []).append(index)
        return cls(layers)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return ((layer, index) for layer, indices in self.layers.items() for index in indices)

    def __len__(self) -> int:
        return sum(map(len, self.layers.values()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Neurons) and dict(self.layers) == dict(other.layers)

    def __hash__(self) -> int:
        return hash(frozenset(self))

    def __reduce__(self) -> tuple[type[Neurons], tuple[dict[str, tuple[int, ...]]]]:
        return Neurons, (dict(self.layers),)

    def __repr__(self) -> str:
        return f"Neurons({dict(self.layers)!r})"

    def __or__(self, other: Neurons) -> Neurons:
        return Neurons.of([*self, *other])

    def __and__(self, other: Neurons) -> Neurons:
        kept = set(other)
        return Neurons.of(pair for pair in self if pair in kept)

    def __sub__(self, other: Neurons) -> Neurons:
        gone = set(other)
        return Neurons.of(pair for pair in self if pair not in gone)

    def to_json(self) -> dict[str, list[int]]:
        return {layer: list(indices) for layer, indices in self.layers.items()}

    def check(self, model: Model) -> None:
        """See that every neuron exists in the model.

        Raises:
            NeuronError: a layer is unknown or an index is beyond its width.
        """
        for layer, indices in self.layers.items():
            if layer not in model.value_layers:
                raise NeuronError(f"{layer}: {model.name} has no such value layer. Its value layers: {', '.join(model.value_layers)}.")
            width = model.value_layers[layer].out_features
            if indices[-1] >= width:
                raise NeuronError(f"{layer}: neuron {indices[-1]} does not exist, the layer has {width}. The neurons are another model's.")


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
    def of(cls, model: Model, neurons: Neurons, *, scale: float = 0.0, found: Mapping[str, Any] | None = None) -> NeuronFile:
        """A neuron file for neurons of this model."""
        neurons.check(model)
        name, revision, fingerprint = model.name, model.revision, model.fingerprint
        return cls(neurons=neurons, model=name, revision=revision, fingerprint=fingerprint, scale=scale, found=found or {})

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
        atomic_write(Path(path), json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n", NeuronError)

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
        combined = {"union": Neurons.__or__, "intersection": Neurons.__and__, "difference": Neurons.__sub__}[operation]
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
            raise NeuronError(f"{path}: schema {content.get('schema')!r}, expected {SCHEMA!r}. Is it a neuron file, made by this version?")
        try:
            layers, scale, revision, found = content["neurons"], content["scale"], content["revision"], content["found"]
            texts = (content["model"], content["fingerprint"])
        except KeyError as problem:
            raise NeuronError(f"{path}: the key {problem} is missing. Export the neurons again.") from problem
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
            raise NeuronError(f"{path}: a text holds control characters or half of a character, or is nested too deep. Export it again.")
        try:
            neurons = Neurons(layers)
        except NeuronError as problem:
            raise NeuronError(f"{path}: {problem}") from problem
        return cls(neurons=neurons, model=texts[0], fingerprint=texts[1], revision=revision, scale=float(scale), found=found)

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
    return all(character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs") for character in text)


def random_control(neurons: Neurons, widths: Mapping[str, int], seed: int, *, exclude: Neurons | None = None) -> Neurons:
    """As many other neurons of each layer, at random: the control for an effect of ``neurons``, which are never among them.

    Args:
        neurons: what the control is for.
        widths: layer -> number of its neurons.
        seed: of the draw.
        exclude: more neurons that are never taken.

    Where a layer has too few others, all of them are taken.
    """
    rng = np.random.default_rng(seed)
    barred = neurons | (exclude or Neurons())
    layers = {}
    for path, indices in neurons.layers.items():
        others = np.setdiff1d(np.arange(widths[path]), barred.layers[path])
        layers[path] = rng.choice(others, min(len(indices), len(others)), replace=False).tolist()
    return Neurons(layers)
