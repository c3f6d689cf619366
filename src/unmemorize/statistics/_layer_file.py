"""The file format of statistics and of their sums: two vectors for each value layer.

A safetensors file holds the tensors ``mean/LAYER`` and ``SPREAD/LAYER`` (float64, one value for
each neuron), where SPREAD is ``std`` or ``squares``, and as metadata the schema, the number of
prompts, the hash of the prompts and the fingerprint of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from unmemorize._errors import StatisticsError
from unmemorize._files import read_bytes, safetensors_bytes

_WAY_OUT = "Make the statistics again with: unmemorize statistics"


@dataclass(frozen=True, kw_only=True)
class LayerFile:
    """The content of such a file.

    Args:
        mean: the mean activation of each neuron, layer -> (features,).
        spread: what the schema says, of the same shapes and never negative.
        count: over how many prompts.
        fingerprint: see `Model.fingerprint`.
        prompts: see `hash_prompts`.
    """

    mean: Mapping[str, Tensor]
    spread: Mapping[str, Tensor]
    count: int
    fingerprint: str
    prompts: str

    def to_bytes(self, schema: str, spread_name: str) -> bytes:
        """Return the file; equal content gives equal bytes."""
        tensors = {f"mean/{layer}": value.contiguous() for layer, value in self.mean.items()}
        tensors |= {
            f"{spread_name}/{layer}": value.contiguous() for layer, value in self.spread.items()
        }
        metadata = {
            "schema": schema,
            "count": str(self.count),
            "fingerprint": self.fingerprint,
            "prompts": self.prompts,
        }
        return safetensors_bytes(tensors, metadata)

    @classmethod
    def read(cls, path: Path, schema: str, spread_name: str) -> LayerFile:
        """Read and check a file.

        Raises:
            StatisticsError: the file is missing, damaged, of another schema, or holds values that
                are no statistics.
        """
        tensors, metadata = _read_safetensors(path)
        if metadata.get("schema") != schema:
            raise StatisticsError(f"{path}: not a statistics file of schema {schema}. {_WAY_OUT}")
        try:
            content = cls(
                mean=_with_prefix("mean", tensors),
                spread=_with_prefix(spread_name, tensors),
                count=int(metadata["count"]),
                fingerprint=metadata["fingerprint"],
                prompts=metadata["prompts"],
            )
            int(content.prompts or "0", 16)
        except (KeyError, ValueError) as problem:
            raise StatisticsError(
                f"{path}: damaged metadata of a statistics file ({problem}). {_WAY_OUT}"
            ) from problem
        problem_of_values = content._problem(spread_name)
        if problem_of_values:
            raise StatisticsError(f"{path}: {problem_of_values}. {_WAY_OUT}")
        return content

    def _problem(self, spread_name: str) -> str:
        """Return what is wrong with the values, or nothing."""
        if self.count < 1:
            return f"statistics of {self.count} prompts"
        if not self.mean or self.mean.keys() != self.spread.keys():
            return f"not one tensor mean and one tensor {spread_name} for each layer"
        for layer, mean in self.mean.items():
            spread = self.spread[layer]
            if mean.dtype != torch.float64 or spread.dtype != torch.float64:
                return f"the values of {layer} are not float64"
            if mean.ndim != 1 or mean.shape != spread.shape:
                return f"the values of {layer} are not two vectors of one length"
            if not bool(torch.isfinite(mean).all() & torch.isfinite(spread).all()):
                return f"the values of {layer} hold NaN or infinity"
            if bool((spread < 0).any()):
                return f"the values of {layer} hold a negative spread"
        return ""


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    data = read_bytes(path, StatisticsError, "statistics file")
    try:
        with safe_open(path, "pt") as handle:
            metadata = dict(handle.metadata() or {})
        return load(data), metadata
    except (SafetensorError, KeyError, ValueError) as problem:  # KeyError: an unknown dtype
        raise StatisticsError(
            f"{path}: not a valid statistics file ({problem}). {_WAY_OUT}"
        ) from problem


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(f"{prefix}/"): value
        for key, value in tensors.items()
        if key.startswith(f"{prefix}/")
    }
