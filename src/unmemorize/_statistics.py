"""Step 1: how strongly each value neuron answers to prompts that are not memorized."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from unmemorize._activations import activations
from unmemorize._errors import StatisticsError
from unmemorize._files import atomic_write, read_bytes, safetensors_bytes
from unmemorize._model import Model
from unmemorize._progress import Progress, silent
from unmemorize._prompts import Prompt, as_prompt

SCHEMA = "unmemorize.statistics/1"
_SMALLEST_STD = 1e-12
_HASHES = 2**256


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
            running.add(part.count, part.mean, {path: std.square() * (part.count - 1) for path, std in part.std.items()}, part.prompts)
        return running.compute(self.fingerprint)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the tensors ``mean/LAYER`` and ``std/LAYER``."""
        tensors = {f"mean/{layer}": value.contiguous() for layer, value in self.mean.items()}
        tensors |= {f"std/{layer}": value.contiguous() for layer, value in self.std.items()}
        metadata = {"schema": SCHEMA, "count": str(self.count), "fingerprint": self.fingerprint, "prompts": self.prompts}
        atomic_write(Path(path), safetensors_bytes(tensors, metadata), StatisticsError)

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read a statistics file.

        Raises:
            StatisticsError: the file is missing or malformed.
        """
        path = Path(path)
        data = read_bytes(path, StatisticsError, "statistics file")
        try:
            tensors = load(data)
            metadata = _metadata(path)
            parts = {
                part: {key.removeprefix(f"{part}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{part}/")}
                for part in ("mean", "std")
            }
            count, fingerprint, prompts = int(metadata["count"]), metadata["fingerprint"], metadata["prompts"]
        except (SafetensorError, KeyError, ValueError) as problem:
            raise StatisticsError(f"{path}: not a valid statistics file ({problem}). Make it with: unmemorize statistics") from problem
        if metadata.get("schema") != SCHEMA or not parts["mean"] or parts["mean"].keys() != parts["std"].keys() or count < 2:
            raise StatisticsError(f"{path}: not a statistics file of schema {SCHEMA}. Make it with: unmemorize statistics")
        if any(not bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise StatisticsError(f"{path}: the statistics hold NaN or infinity. Make them again with: unmemorize statistics")
        return cls(mean=parts["mean"], std=parts["std"], count=count, fingerprint=fingerprint, prompts=prompts)


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
        hashed = sum(int.from_bytes(hashlib.sha256(text.encode()).digest()) for text in texts)
        self.add(len(texts), means, squares, f"{hashed % _HASHES:064x}")

    def add(self, count: int, mean: Mapping[str, Tensor], squares: Mapping[str, Tensor], prompts: str) -> None:
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

    def compute(self, fingerprint: str) -> Statistics:
        """The statistics of all that was added.

        Raises:
            StatisticsError: fewer than two prompts.
        """
        if self.count < 2:
            raise StatisticsError(f"{self.count} prompt(s): a standard deviation needs at least 2. Give more unmemorized prompts.")
        std = {path: (squares / (self.count - 1)).sqrt() for path, squares in self._squares.items()}
        return Statistics(mean=self._mean, std=std, count=self.count, fingerprint=fingerprint, prompts=f"{self._prompts:064x}")


def compute_statistics(
    pipe: DiffusionPipeline,
    prompts: Iterable[str | Prompt],
    *,
    batch: int = 64,
    raw: str | Path | None = None,
    progress: Progress = silent,
) -> Statistics:
    """Activation statistics over prompts that are not memorized (paper, section 3.2: 50,000 LAION captions), in constant memory.

    Args:
        pipe: a loaded pipeline.
        prompts: unmemorized prompts, at least two; also a stream such as `iter_prompts`.
        batch: prompts per pass of the text encoder; it does not change the result beyond rounding.
        raw: a new folder for the single activations: one safetensors file per batch, ``00000000.safetensors`` by the number of its
            first prompt, with a tensor (prompts, features) for each layer.
        progress: called after each batch.

    Raises:
        StatisticsError: fewer than two prompts, or the folder exists or cannot be written.
    """
    model, running = Model(pipe), StatisticsAccumulator()
    if raw is not None and Path(raw).exists():
        raise StatisticsError(f"{raw}: exists. Name a new folder for the activations, one for each shard.")
    total = len(prompts) if isinstance(prompts, Sized) else None
    texts = (as_prompt(prompt).text for prompt in prompts)
    while part := list(islice(texts, batch)):
        activation = activations(model, model.encode(part))
        if raw is not None:
            content = {path: value.contiguous().cpu() for path, value in activation.items()}
            atomic_write(Path(raw) / f"{running.count:08d}.safetensors", safetensors_bytes(content), StatisticsError)
        running.update(activation, part)
        progress(running.count, total)
    return running.compute(model.fingerprint)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as handle:
        return dict(handle.metadata() or {})
