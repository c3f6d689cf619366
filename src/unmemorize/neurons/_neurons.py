"""Neurons: which outputs of which value layers; and the file that carries them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from unmemorize._errors import NeuronError
from unmemorize.pipelines import Model


class Neurons:
    """A set of neurons, frozen: layer path -> sorted indices. Layers without neurons are left out.

    ``len`` counts neurons, iteration yields (layer, index), and ``|``, ``&``, ``-`` are those of sets.

    Raises:
        NeuronError: an index is not a whole number from 0.

    >>> found = Neurons({"attn2.to_v": [7, 3, 3]})
    >>> len(found), found.layers["attn2.to_v"], found - Neurons({"attn2.to_v": [3]})
    (2, (3, 7), Neurons({'attn2.to_v': (7,)}))
    """

    __slots__ = ("layers",)
    layers: Mapping[str, tuple[int, ...]]

    def __init__(self, layers: Mapping[str, Iterable[int]] | None = None) -> None:
        clean: dict[str, tuple[int, ...]] = {}
        for layer, indices in (layers or {}).items():
            listed = list(indices)
            if not all(
                isinstance(index, (int, np.integer)) and not isinstance(index, bool) and index >= 0
                for index in listed
            ):
                raise NeuronError(
                    f"{layer}: neuron indices must be whole numbers from 0, got {listed[:5]}. Correct the file."
                )
            if listed:
                clean[layer] = tuple(sorted({int(index) for index in listed}))
        object.__setattr__(self, "layers", MappingProxyType(clean))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: a set of neurons cannot be changed")

    @classmethod
    def from_json(cls, value: Any) -> Neurons:
        """Make a set from its JSON object, layer -> indices.

        Raises:
            NeuronError: it is no such object.
        """
        lists = value.values() if isinstance(value, dict) else [None]
        if not all(isinstance(indices, list) for indices in lists):
            raise NeuronError("neurons must be an object of layer and list of indices")
        return cls(value)

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
                raise NeuronError(
                    f"{layer}: {model.name} has no such value layer. Its value layers: {', '.join(model.value_layers)}."
                )
            width = model.value_layers[layer].out_features
            if indices[-1] >= width:
                raise NeuronError(
                    f"{layer}: neuron {indices[-1]} does not exist, the layer has {width}. The neurons are another model's."
                )


def random_control(
    neurons: Neurons, widths: Mapping[str, int], seed: int, *, exclude: Neurons | None = None
) -> Neurons:
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
