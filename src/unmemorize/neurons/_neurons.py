"""Sets of neurons, and random controls for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, Protocol

import numpy as np

from unmemorize._errors import NeuronError
from unmemorize._files import type_in_words
from unmemorize.pipelines import Model


class Neurons:
    """An immutable set of neurons.

    ``len`` counts neurons, iteration yields (layer, index) pairs, and ``|``, ``&`` and ``-`` are
    union, intersection and difference. ``layers`` maps layer paths to sorted indices and has no
    layer without neurons.

    Args:
        layers: layer path -> indices, in any order. Repeated ones count once.

    Raises:
        NeuronError: an index is negative or not a whole number.

    Examples:
        >>> neurons = Neurons({"attn2.to_v": [7, 3, 3]})
        >>> len(neurons), neurons.layers["attn2.to_v"], neurons - Neurons({"attn2.to_v": [3]})
        (2, (3, 7), Neurons({'attn2.to_v': (7,)}))
    """

    __slots__ = ("layers",)
    layers: Mapping[str, tuple[int, ...]]

    def __init__(self, layers: Mapping[str, Iterable[int]] | None = None) -> None:
        indices_by_layer: dict[str, tuple[int, ...]] = {}
        for layer, indices in (layers or {}).items():
            listed = list(indices)
            if not all(map(_is_index, listed)):
                raise NeuronError(
                    f"{layer}: neuron indices must be whole numbers from 0, got {listed[:5]}. "
                    "Correct them."
                )
            if listed:
                indices_by_layer[layer] = tuple(sorted({int(index) for index in listed}))
        object.__setattr__(self, "layers", MappingProxyType(indices_by_layer))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: a set of neurons cannot be changed")

    @classmethod
    def from_json(cls, value: Any) -> Neurons:
        """Make a set from what `to_json` returned.

        Raises:
            NeuronError: the value is not an object of layers and lists of indices.
        """
        lists = value.values() if isinstance(value, dict) else [None]
        if not all(isinstance(indices, list) for indices in lists):
            raise NeuronError("neurons must be an object of layers and lists of indices")
        return cls(value)

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, int]]) -> Neurons:
        """Make a set from (layer, index) pairs."""
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
        others = set(other)
        return Neurons.of(pair for pair in self if pair in others)

    def __sub__(self, other: Neurons) -> Neurons:
        others = set(other)
        return Neurons.of(pair for pair in self if pair not in others)

    def to_json(self) -> dict[str, list[int]]:
        """Return the set as a JSON object, layer -> indices."""
        return {layer: list(indices) for layer, indices in self.layers.items()}

    def check(self, model: Model) -> None:
        """Refuse a model in which not every neuron exists.

        Raises:
            NeuronError: a layer is unknown, or an index is not below its width.
        """
        for layer, indices in self.layers.items():
            if layer not in model.value_layers:
                raise NeuronError(
                    f"{layer}: {model.name} has no such value layer. "
                    f"Its value layers: {', '.join(model.value_layers)}."
                )
            width = model.value_layers[layer].out_features
            if indices[-1] >= width:
                raise NeuronError(
                    f"{layer}: neuron {indices[-1]} does not exist, the layer has {width}. "
                    "Use the model the neurons were found in."
                )


class HasNeurons(Protocol):
    """What carries neurons, such as a `Localization` or a `NeuronFile`."""

    @property
    def neurons(self) -> Neurons:
        """The neurons."""
        ...


def as_neurons(given: Neurons | HasNeurons) -> Neurons:
    """Return neurons themselves, or those of what carries them.

    Raises:
        NeuronError: it is something else.
    """
    neurons = given if isinstance(given, Neurons) else getattr(given, "neurons", None)
    if not isinstance(neurons, Neurons):
        raise NeuronError(
            f"{given!r:.60}: {type_in_words(given)}, not neurons. Give Neurons, a Localization or "
            "a NeuronFile."
        )
    return neurons


def neurons_in(model: Model, given: Neurons | HasNeurons) -> Neurons:
    """Return neurons like `as_neurons`, if they fit a model.

    Raises:
        NeuronError: they are none, do not exist in the model, or lie in the file of another model.
    """
    neurons = as_neurons(given)
    neurons.check(model)
    if given is not neurons and hasattr(given, "check"):  # a neuron file knows its model
        given.check(model)
    return neurons


def scale_of(given: Neurons | HasNeurons, scale: float | None) -> float:
    """Return the scale that was asked for, else that of a neuron file, else 0."""
    own: float = getattr(given, "scale", 0.0)
    return own if scale is None else scale


def random_control(
    neurons: Neurons | HasNeurons,
    widths: Mapping[str, int],
    seed: int,
    *,
    exclude: Neurons | None = None,
) -> Neurons:
    """Draw as many other neurons from each layer: the control for an effect of ``neurons``.

    Args:
        neurons: what the control is for, also as a localization or neuron file. None of them is
            drawn.
        widths: layer path -> number of its neurons. Layers are drawn in this order, whatever that
            of the neurons is, so equal sets have equal controls.
        seed: seed of the draw.
        exclude: more neurons that are never drawn.

    Returns:
        Neurons of the same layers, fewer where a layer has too few others.

    Raises:
        NeuronError: a layer of the neurons is not among the widths.

    Examples:
        >>> neurons = Neurons({"attn2.to_v": [0, 1]})
        >>> control = random_control(neurons, {"attn2.to_v": 8}, seed=0)
        >>> len(control), len(control & neurons)
        (2, 0)
    """
    neurons = as_neurons(neurons)
    rng = np.random.default_rng(seed)
    barred = neurons | (exclude or Neurons())
    for path in neurons.layers.keys() - widths.keys():
        raise NeuronError(
            f"{path}: the widths do not name this layer. Use those of the model the neurons were "
            "found in (Model.widths)."
        )
    layers = {}
    for path, width in widths.items():
        if path in neurons.layers:
            others = np.setdiff1d(np.arange(width), barred.layers[path])
            count = min(len(neurons.layers[path]), len(others))
            layers[path] = rng.choice(others, count, replace=False).tolist()
    return Neurons(layers)


def _is_index(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return bool(value >= 0)
