"""The published activation statistics of Finding NeMo (.pt), read into ours."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unmemorize._errors import StatisticsError, first_line
from unmemorize._files import read_bytes
from unmemorize.export._published_layers import LARGEST_FILE, published_widths
from unmemorize.pipelines import Model
from unmemorize.statistics import Statistics

_DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    IndexError,
    TypeError,
)
"""What torch.load raises for files that are damaged or hold more than tensors."""


def read_statistics(
    path: str | Path, model: Model | None = None, *, count: int = 50_000
) -> Statistics:
    """Read published activation statistics.

    The file is a pickled pair (means, standard deviations), each a list of one tensor per layer.
    Only tensors are unpickled, no code.

    Args:
        path: the ``.pt`` file.
        model: the model they were computed on. Its fingerprint goes into the statistics. Without
            it the layers of Stable Diffusion v1 are assumed, and the statistics pass for any model
            with such layers, as the file names no weights.
        count: the number of prompts behind them, which the file does not say.

    Returns:
        The statistics. Their prompts are unknown; the hash of the file stands for them.

    Raises:
        StatisticsError: the file is missing, too large, holds something else, or does not fit the
            layers.
    """
    path = Path(path)
    data = read_bytes(path, StatisticsError, "published file", LARGEST_FILE)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _DAMAGED as problem:
        reason = first_line(problem)
        raise StatisticsError(
            f"{path}: not a file of tensors ({reason}). Download it again."
        ) from problem
    widths = published_widths(model)
    if not _is_pair(content, widths):
        raise StatisticsError(
            f"{path}: not a pair of means and standard deviations with {len(widths)} "
            f"one-dimensional tensors of {', '.join(map(str, widths.values()))} finite numbers. "
            "Give the model that they belong to, with --model."
        )
    mean, std = (
        {layer: tensor.double() for layer, tensor in zip(widths, tensors, strict=True)}
        for tensors in content
    )
    if any(bool((tensor < 0).any()) for tensor in std.values()):
        raise StatisticsError(
            f"{path}: a standard deviation is negative. The file is damaged; download it again."
        )
    return Statistics(
        mean=mean,
        std=std,
        count=count,
        fingerprint=model.fingerprint if model else "",
        prompts=hashlib.sha256(data).hexdigest(),
    )


def _is_pair(content: object, widths: Mapping[str, int]) -> bool:
    return (
        isinstance(content, (tuple, list))
        and len(content) == 2
        and all(_fits(tensors, widths) for tensors in content)
    )


def _fits(tensors: object, widths: Mapping[str, int]) -> bool:
    return (
        isinstance(tensors, (tuple, list))
        and len(tensors) == len(widths)
        and all(
            isinstance(tensor, Tensor)
            and tensor.is_floating_point()
            and tensor.shape == (width,)
            and bool(torch.isfinite(tensor).all())
            for tensor, width in zip(tensors, widths.values(), strict=True)
        )
    )
