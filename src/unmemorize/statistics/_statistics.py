"""Step 1: how strongly each value neuron answers to prompts that are not memorized."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from unmemorize._errors import StatisticsError
from unmemorize._files import atomic_write, read_bytes, safetensors_bytes
from unmemorize.pipelines import Model

SCHEMA = "unmemorize.statistics/1"


_SMALLEST_STD = 1e-12


_HASHES = 2**256


_SUMS_SCHEMA = "unmemorize.activation-sums/1"


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and standard deviation (Bessel) of every neuron's activation, float64, and how they came to be.

    Statistics of two sets of prompts merge into those of their union, so shards of a long list can be computed apart.
    """

    mean: Mapping[str, Tensor]
    std: Mapping[str, Tensor]
    count: int
    fingerprint: str
    """`Model.fingerprint`; empty for published statistics that name no weights, which are taken for any model with the same layers."""
    prompts: str
    """Hash of the prompts, whatever their order: the sum of the SHA-256 of each, modulo 2^256, so that those of two sets add up."""

    def z_scores(self, activation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """|a - mean| / std for activations of one prompt, layer -> (features,), float64, finite also for a neuron that is constant."""
        scores = {}
        for path, value in activation.items():
            away = (value.double().cpu() - self.mean[path]).abs()
            scores[path] = away / self.std[path].clamp_min(_SMALLEST_STD)
        return scores

    def check(self, model: Model, layers: Iterable[str] = ()) -> None:
        """See that the statistics belong to the model and cover these of its value layers.

        Raises:
            StatisticsError: the model's value layers have other weights, or the statistics lack a layer or have it in another width.
        """
        if not model.matches(self.fingerprint):
            raise StatisticsError(
                f"the statistics are those of another model (fingerprint {self.fingerprint[:12]}, {model.name} has "
                f"{model.fingerprint[:12]}). Compute them for this model: unmemorize statistics --model {model.name}"
            )
        for path in layers:
            width = len(self.mean[path]) if path in self.mean else 0
            if width != model.widths[path]:
                raise StatisticsError(
                    f"the statistics have {width} neurons in {path}, {model.name} has {model.widths[path]}. "
                    f"Search other layers, or compute them for this model: unmemorize statistics --model {model.name}"
                )

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both sets of prompts together.

        Raises:
            StatisticsError: they belong to different models.
        """
        if self.fingerprint != other.fingerprint or self.mean.keys() != other.mean.keys():
            raise StatisticsError(
                "the two sets of statistics belong to different models and cannot be merged. Compute both with one model."
            )
        running = StatisticsAccumulator()
        for part in (self, other):
            running.add(
                part.count,
                part.mean,
                {path: std.square() * (part.count - 1) for path, std in part.std.items()},
                part.prompts,
            )
        return running.compute(self.fingerprint)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the tensors ``mean/LAYER`` and ``std/LAYER``."""
        tensors = {f"mean/{layer}": value.contiguous() for layer, value in self.mean.items()}
        tensors |= {f"std/{layer}": value.contiguous() for layer, value in self.std.items()}
        metadata = {
            "schema": SCHEMA,
            "count": str(self.count),
            "fingerprint": self.fingerprint,
            "prompts": self.prompts,
        }
        atomic_write(Path(path), safetensors_bytes(tensors, metadata), StatisticsError)

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read a statistics file.

        Raises:
            StatisticsError: the file is missing or malformed.
        """
        tensors, metadata = _read(Path(path), SCHEMA, ("mean", "std"))
        count, fingerprint, prompts = (
            int(metadata["count"]),
            metadata["fingerprint"],
            metadata["prompts"],
        )
        if count < 2:
            raise StatisticsError(
                f"{path}: statistics of {count} prompt. Make them again with: unmemorize statistics"
            )
        return cls(
            mean=tensors["mean"],
            std=tensors["std"],
            count=count,
            fingerprint=fingerprint,
            prompts=prompts,
        )


class StatisticsAccumulator:
    """Running statistics in constant memory: count, mean and sum of squared differences in float64, merged batch by batch (Chan et al.)."""

    def __init__(self) -> None:
        self.count = 0
        self._prompts = 0
        self._mean: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}

    def update(self, activation: Mapping[str, Tensor], texts: Sequence[str]) -> None:
        """Add the activations of some prompts, layer -> (B, features)."""
        values = {path: value.double().cpu() for path, value in activation.items()}
        means = {path: value.mean(0) for path, value in values.items()}
        squares = {path: (value - means[path]).square().sum(0) for path, value in values.items()}
        self.add(len(texts), means, squares, hash_prompts(texts))

    def add(
        self, count: int, mean: Mapping[str, Tensor], squares: Mapping[str, Tensor], prompts: str
    ) -> None:
        """Add ``count`` prompts by their mean, their sum of squared differences from it, and their hash."""
        total = self.count + count
        for path, value in mean.items():
            if path not in self._mean:
                self._mean[path], self._squares[path] = value.clone(), squares[path].clone()
                continue
            delta = value - self._mean[path]
            self._mean[path] += delta * (count / total)
            self._squares[path] += squares[path] + delta.square() * (self.count * count / total)
        self.count = total
        self._prompts = (self._prompts + int(prompts or "0", 16)) % _HASHES

    @property
    def prompts(self) -> str:
        """See `hash_prompts`."""
        return f"{self._prompts:064x}"

    def to_bytes(self, fingerprint: str) -> bytes:
        """Return a safetensors file of what was added so far, see `add_file`."""
        tensors = {f"mean/{layer}": value for layer, value in self._mean.items()}
        tensors |= {f"squares/{layer}": value for layer, value in self._squares.items()}
        metadata = {
            "schema": _SUMS_SCHEMA,
            "count": str(self.count),
            "fingerprint": fingerprint,
            "prompts": self.prompts,
        }
        return safetensors_bytes(tensors, metadata)

    def add_file(self, path: Path, fingerprint: str) -> None:
        """Add what `to_bytes` returned for other prompts and the same model.

        Raises:
            StatisticsError: the file is missing, malformed, or another model's.
        """
        tensors, metadata = _read(path, _SUMS_SCHEMA, ("mean", "squares"))
        if metadata["fingerprint"] != fingerprint:
            raise StatisticsError(
                f"{path}: the activations of another model. Delete its run folder and start again."
            )
        count, prompts = int(metadata["count"]), metadata["prompts"]
        self.add(count, tensors["mean"], tensors["squares"], prompts)

    def compute(self, fingerprint: str) -> Statistics:
        """The statistics of all that was added.

        Raises:
            StatisticsError: fewer than two prompts.
        """
        if self.count < 2:
            raise StatisticsError(
                f"{self.count} prompt(s): a standard deviation needs at least 2. Give more unmemorized prompts."
            )
        std = {path: (squares / (self.count - 1)).sqrt() for path, squares in self._squares.items()}
        return Statistics(
            mean=self._mean,
            std=std,
            count=self.count,
            fingerprint=fingerprint,
            prompts=self.prompts,
        )


def hash_prompts(texts: Iterable[str]) -> str:
    """The sum of the SHA-256 of each text, modulo 2^256, as hexadecimal; the order does not count."""
    return f"{sum(int.from_bytes(hashlib.sha256(text.encode()).digest()) for text in texts) % _HASHES:064x}"


def _read(
    path: Path, schema: str, kinds: Sequence[str]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """The tensors of a file by kind and layer, and its metadata."""
    data = read_bytes(path, StatisticsError, "statistics file")
    try:
        tensors = load(data)
        with safe_open(path, "pt") as handle:
            metadata = dict(handle.metadata() or {})
        count = int(metadata["count"])
        int(metadata["prompts"] or "0", 16)
    except (SafetensorError, KeyError, ValueError) as problem:
        raise StatisticsError(
            f"{path}: not a valid statistics file ({problem}). Make it with: unmemorize statistics"
        ) from problem
    parts = {
        kind: {
            key.removeprefix(f"{kind}/"): value
            for key, value in tensors.items()
            if key.startswith(f"{kind}/")
        }
        for kind in kinds
    }
    first, second = (parts[kind].keys() for kind in kinds)
    if (
        metadata.get("schema") != schema
        or not first
        or first != second
        or count < 1
        or "fingerprint" not in metadata
    ):
        raise StatisticsError(
            f"{path}: not a statistics file of schema {schema}. Make it with: unmemorize statistics"
        )
    values = [*parts[kinds[0]].values(), *parts[kinds[1]].values()]
    if any(value.dtype != torch.float64 or value.ndim != 1 for value in values) or any(
        parts[kinds[1]][layer].shape != value.shape for layer, value in parts[kinds[0]].items()
    ):
        raise StatisticsError(
            f"{path}: not pairs of vectors in float64. Make the statistics again with: unmemorize statistics"
        )
    if not all(bool(torch.isfinite(value).all()) for value in values) or any(
        bool((spread < 0).any()) for spread in parts[kinds[1]].values()
    ):
        raise StatisticsError(
            f"{path}: NaN, infinity or a negative spread. Make the statistics again with: unmemorize statistics"
        )
    return parts, metadata
