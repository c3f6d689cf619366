"""The arithmetic of activation statistics: mean and standard deviation, added up in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unmemorize._errors import StatisticsError
from unmemorize._files import as_path, atomic_write
from unmemorize.pipelines import Model
from unmemorize.statistics._layer_file import LayerFile

SCHEMA = "unmemorize.statistics/1"
_SUMS_SCHEMA = "unmemorize.activation-sums/1"
_SMALLEST_STD = 1e-12
"""Stands for the standard deviation of a constant neuron, far below that of any other."""
_HASHES = 2**256
"""How many values SHA-256 has."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and standard deviation of every value neuron's activation over many prompts.

    Statistics of two sets of prompts merge into those of their union, so the shards of a long list
    can be computed apart.

    Args:
        mean: layer -> (features,), float64.
        std: the standard deviation with Bessel's correction, layer -> (features,), float64.
        count: over how many prompts, at least 2.
        fingerprint: see `Model.fingerprint`. Empty for published statistics that name no weights;
            they count as those of any model with the same layers.
        prompts: a hash of the prompts that does not depend on their order.

    Examples:
        >>> from unmemorize import testbed
        >>> statistics = Statistics.load(testbed.statistics_path())
        >>> len(statistics.mean)
        16
    """

    mean: Mapping[str, Tensor]
    std: Mapping[str, Tensor]
    count: int
    fingerprint: str
    prompts: str

    def z_scores(self, activation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute |a - mean| / std (paper, section 3.2) for the activations of one prompt.

        Args:
            activation: layer -> (features,).

        Returns:
            Layer -> (features,), float64, at least 0 and finite, also for constant neurons.
        """
        scores = {}
        for layer, value in activation.items():
            distance = (value.cpu().double() - self.mean[layer]).abs()
            scores[layer] = distance / self.std[layer].clamp_min(_SMALLEST_STD)
        return scores

    def check(self, model: Model, layers: Iterable[str] = ()) -> None:
        """Check that the statistics belong to the model and cover these of its value layers.

        Raises:
            StatisticsError: the model's value layers have other weights, or the statistics lack a
                layer or have it in another width.
        """
        way_out = f"compute them for this model: unmemorize statistics --model {model.name}"
        if not model.matches(self.fingerprint):
            raise StatisticsError(
                "the statistics are those of another model "
                f"({model.contrast(self.fingerprint)}). Use those of this model, or {way_out}"
            )
        for layer in layers:
            width = len(self.mean[layer]) if layer in self.mean else 0
            if width != model.widths[layer]:
                raise StatisticsError(
                    f"the statistics have {width} neurons in {layer}, {model.name} has "
                    f"{model.widths[layer]}. Search other layers, or {way_out}"
                )

    def merge(self, other: Statistics) -> Statistics:
        """Return the statistics of both sets of prompts together.

        Raises:
            StatisticsError: they belong to different models, or are of the same prompts, which
                would count twice.
        """
        if self.fingerprint != other.fingerprint or _shapes(self.mean) != _shapes(other.mean):
            raise StatisticsError(
                "the two sets of statistics belong to different models and cannot be merged. "
                "Compute both with one model."
            )
        if self.prompts and self.prompts == other.prompts:
            raise StatisticsError(
                "the two sets of statistics are of the same prompts, which would count twice. "
                "Merge each set once."
            )
        accumulator = StatisticsAccumulator()
        for statistics in (self, other):
            squares = {
                layer: std.square() * (statistics.count - 1)
                for layer, std in statistics.std.items()
            }
            accumulator.add(statistics.count, statistics.mean, squares, statistics.prompts)
        return accumulator.compute(self.fingerprint)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the tensors ``mean/LAYER`` and ``std/LAYER``.

        Raises:
            StatisticsError: the file cannot be written; an earlier one stays as it was.
        """
        content = LayerFile(
            mean=self.mean,
            spread=self.std,
            count=self.count,
            fingerprint=self.fingerprint,
            prompts=self.prompts,
        )
        atomic_write(Path(path), content.to_bytes(SCHEMA, "std"), StatisticsError)

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read a statistics file.

        Raises:
            StatisticsError: the file is missing or damaged, or holds statistics of one prompt.
        """
        content = LayerFile.read(as_path(path, StatisticsError, "statistics file"), SCHEMA, "std")
        if content.count < 2:
            raise StatisticsError(
                f"{path}: statistics of {content.count} prompt, but a standard deviation needs 2. "
                "Make the statistics again with: unmemorize statistics"
            )
        return cls(
            mean=content.mean,
            std=content.spread,
            count=content.count,
            fingerprint=content.fingerprint,
            prompts=content.prompts,
        )


class StatisticsAccumulator:
    """The statistics of the prompts that were added so far, in constant memory.

    It holds the count, the mean and the sum of squared differences from the mean, in float64. Sets
    of prompts are joined by the formula of Chan, Golub and LeVeque (1983), which loses no precision
    to large means.
    """

    def __init__(self) -> None:
        self._count = 0
        self._prompts = 0
        self._mean: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}

    def update(self, activation: Mapping[str, Tensor], texts: Sequence[str]) -> None:
        """Add the activations of B prompts, layer -> (B, features)."""
        values = {layer: value.cpu().double() for layer, value in activation.items()}
        means = {layer: value.mean(0) for layer, value in values.items()}
        squares = {layer: (value - means[layer]).square().sum(0) for layer, value in values.items()}
        self.add(len(texts), means, squares, hash_prompts(texts))

    def add(
        self, count: int, mean: Mapping[str, Tensor], squares: Mapping[str, Tensor], prompts: str
    ) -> None:
        """Add ``count`` prompts.

        Args:
            count: how many prompts.
            mean: their mean, layer -> (features,).
            squares: their sum of squared differences from this mean, layer -> (features,).
            prompts: see `hash_prompts`.
        """
        total = self._count + count
        for layer, value in mean.items():
            if layer not in self._mean:
                self._mean[layer] = value.clone()
                self._squares[layer] = squares[layer].clone()
                continue
            delta = value - self._mean[layer]
            self._mean[layer] += delta * (count / total)
            between = delta.square() * (self._count * count / total)
            self._squares[layer] += squares[layer] + between
        self._count = total
        self._prompts = (self._prompts + int(prompts or "0", 16)) % _HASHES

    def to_bytes(self, fingerprint: str) -> bytes:
        """Return a file of everything that was added so far, see `add_file`."""
        content = LayerFile(
            mean=self._mean,
            spread=self._squares,
            count=self._count,
            fingerprint=fingerprint,
            prompts=self._hash(),
        )
        return content.to_bytes(_SUMS_SCHEMA, "squares")

    def add_file(self, path: Path, fingerprint: str) -> None:
        """Add what `to_bytes` returned for other prompts and the same model.

        Raises:
            StatisticsError: the file is missing, damaged, or another model's.
        """
        content = LayerFile.read(path, _SUMS_SCHEMA, "squares")
        if content.fingerprint != fingerprint:
            raise StatisticsError(
                f"{path}: the activations of another model. Delete its run folder and start again."
            )
        self.add(content.count, content.mean, content.spread, content.prompts)

    def compute(self, fingerprint: str) -> Statistics:
        """Return the statistics of everything that was added.

        Raises:
            StatisticsError: fewer than two prompts were added.
        """
        if self._count < 2:
            raise StatisticsError(
                f"{self._count} prompt(s): a standard deviation needs at least 2. Give more "
                "unmemorized prompts."
            )
        std = {
            layer: (squares / (self._count - 1)).sqrt() for layer, squares in self._squares.items()
        }
        return Statistics(
            mean=dict(self._mean),
            std=std,
            count=self._count,
            fingerprint=fingerprint,
            prompts=self._hash(),
        )

    def _hash(self) -> str:
        return f"{self._prompts:064x}"


def hash_prompts(texts: Iterable[str]) -> str:
    """Return the sum of the SHA-256 of each text, modulo 2^256, as hexadecimal.

    The order does not count, and the hashes of two sets add up to the hash of both.

    Examples:
        >>> hash_prompts(["a cat", "a dog"]) == hash_prompts(["a dog", "a cat"])
        True
    """
    digests = (int.from_bytes(hashlib.sha256(text.encode()).digest()) for text in texts)
    return f"{sum(digests) % _HASHES:064x}"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {layer: tuple(value.shape) for layer, value in tensors.items()}
