"""Step 1: how strongly each value neuron answers to prompts that are not memorized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from unmemorize._errors import StatisticsError
from unmemorize._files import atomic_write, hash_texts, read_bytes
from unmemorize._model import Model
from unmemorize._progress import Progress, silent
from unmemorize._prompts import Prompt, as_prompts

SCHEMA = "unmemorize.statistics/1"
_SMALLEST_STD = 1e-12


@torch.inference_mode()
def activations(model: Model, text: Tensor) -> dict[str, Tensor]:
    """Activation of every value neuron, layer -> (B, features), float32.

    The activation is the mean over token positions, padding included, of the absolute output. Only the value layers run.

    Args:
        model: the model.
        text: text embeddings (B, tokens, features) from `Model.encode`.
    """
    return {path: layer(text).float().abs().mean(1) for path, layer in model.value_layers.items()}


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and standard deviation (Bessel) of every neuron's activation, float64, and how they came to be.

    Statistics of two sets of prompts merge into those of their union, so shards of a long list can be computed apart.
    """

    mean: Mapping[str, Tensor]
    std: Mapping[str, Tensor]
    count: int
    fingerprint: str
    prompts: str
    """Hash of the prompts, see ``hash_texts``."""

    def z_scores(self, activation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """|a - mean| / std for activations of one prompt, layer -> (features,), float64, finite also for a neuron that is constant."""
        scores = {}
        for path, value in activation.items():
            away = (value.double().cpu() - self.mean[path]).abs()
            scores[path] = away / self.std[path].clamp_min(_SMALLEST_STD)
        return scores

    def check(self, model: Model) -> None:
        """See that the statistics belong to the model.

        Raises:
            StatisticsError: the model's value layers have other weights.
        """
        if self.fingerprint != model.fingerprint:
            raise StatisticsError(
                f"the statistics are those of another model (fingerprint {self.fingerprint[:12]}, {model.name} has "
                f"{model.fingerprint[:12]}). Compute them for this model: unmemorize statistics --model {model.name}"
            )

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both sets of prompts together.

        Raises:
            StatisticsError: they belong to different models.
        """
        if self.fingerprint != other.fingerprint:
            raise StatisticsError(
                "the two sets of statistics belong to different models and cannot be merged. Compute both with one model."
            )
        running = StatisticsAccumulator()
        running.add(self.count, self.mean, {path: std.square() * (self.count - 1) for path, std in self.std.items()})
        running.add(other.count, other.mean, {path: std.square() * (other.count - 1) for path, std in other.std.items()})
        return running.compute(self.fingerprint, hash_texts([self.prompts, other.prompts]))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the tensors ``mean/LAYER`` and ``std/LAYER``."""
        tensors = {f"mean/{layer}": value.contiguous() for layer, value in self.mean.items()}
        tensors |= {f"std/{layer}": value.contiguous() for layer, value in self.std.items()}
        metadata = {"schema": SCHEMA, "count": str(self.count), "fingerprint": self.fingerprint, "prompts": self.prompts}
        atomic_write(Path(path), save(tensors, metadata), StatisticsError)

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
        self._mean: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}

    def update(self, activation: Mapping[str, Tensor]) -> None:
        """Add the activations of some prompts, layer -> (B, features)."""
        values = {path: value.double().cpu() for path, value in activation.items()}
        means = {path: value.mean(0) for path, value in values.items()}
        self.add(len(next(iter(values.values()))), means, {path: (value - means[path]).square().sum(0) for path, value in values.items()})

    def add(self, count: int, mean: Mapping[str, Tensor], squares: Mapping[str, Tensor]) -> None:
        """Add ``count`` prompts by their mean and their sum of squared differences from it."""
        total = self.count + count
        for path, value in mean.items():
            if path not in self._mean:
                self._mean[path], self._squares[path] = value.clone(), squares[path].clone()
                continue
            delta = value - self._mean[path]
            self._mean[path] += delta * (count / total)
            self._squares[path] += squares[path] + delta.square() * (self.count * count / total)
        self.count = total

    def compute(self, fingerprint: str, prompts: str) -> Statistics:
        """The statistics of all that was added.

        Raises:
            StatisticsError: fewer than two prompts.
        """
        if self.count < 2:
            raise StatisticsError(f"{self.count} prompt(s): a standard deviation needs at least 2. Give more unmemorized prompts.")
        std = {path: (squares / (self.count - 1)).sqrt() for path, squares in self._squares.items()}
        return Statistics(mean=self._mean, std=std, count=self.count, fingerprint=fingerprint, prompts=prompts)


def compute_statistics(
    pipe: DiffusionPipeline, prompts: Sequence[str | Prompt], *, batch: int = 64, progress: Progress = silent
) -> Statistics:
    """Activation statistics over prompts that are not memorized (paper, section 3.2: 50,000 LAION captions).

    Args:
        pipe: a loaded pipeline.
        prompts: unmemorized prompts, at least two.
        batch: prompts per pass of the text encoder; it does not change the result beyond rounding.
        progress: called after each batch.

    Raises:
        StatisticsError: fewer than two prompts.
    """
    model, texts = Model(pipe), [prompt.text for prompt in as_prompts(prompts)]
    running = StatisticsAccumulator()
    for part in _batches(texts, batch):
        running.update(activations(model, model.encode(part)))
        progress(running.count, len(texts))
    return running.compute(model.fingerprint, hash_texts(texts))


def _batches(texts: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as handle:
        return dict(handle.metadata() or {})
