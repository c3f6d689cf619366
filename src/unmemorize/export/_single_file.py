"""A checkpoint in one file, with whatever names its tensors have there, in which neurons are switched off for good."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor

from unmemorize._errors import ExportError
from unmemorize._files import temporary_file
from unmemorize.export._checkpoint import exportable
from unmemorize.export._rows import header, scale_rows
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model, weights_of

_AVERAGED = "model_ema."
"""Weights that the original programs keep for training and do not load."""


def export_single_file(
    pipe: DiffusionPipeline | Model, neurons: NeuronFile, base: str | Path, output: str | Path
) -> Path:
    """Copy a single-file checkpoint of the model and multiply the rows of the neurons in it by the file's scale.

    The tensors are found by their values, so the file may name them as it likes (the original layout of Stable Diffusion, for instance),
    and may hold queries, keys and values as one tensor (those of Stable Diffusion 3 and Flux).

    Args:
        pipe: the model, loaded from a diffusers folder with the same weights.
        neurons: what to switch off.
        base: the single file (safetensors).
        output: where the copy goes; it is there when it is whole.

    Raises:
        ExportError: the file does not hold the layer's weights, or holds them twice; it cannot be read or written.
        NeuronError: the neurons belong to another model.
    """
    model, base, output = exportable(pipe, neurons), Path(base), Path(output)
    if output.exists():
        raise ExportError(f"{output}: exists already. Choose another file, or delete it first.")
    entries, _ = header(base)
    rows = {}
    with safe_open(base, framework="pt") as tensors:
        for path, indices in neurons.neurons.layers.items():
            for name, weights in weights_of(model.value_layers[path]).items():
                found = list(_places(tensors, entries, weights.detach().cpu()))
                if len(found) != 1:
                    raise ExportError(
                        f"{base}: it holds the {name} of {path} {len(found)} times instead of once. Load the model from a folder with the "
                        f"same weights, in the same precision (--dtype)."
                    )
                key, first = found[0]
                rows[key] = [first + index for index in indices]
    with temporary_file(output, ExportError) as (partial, file):
        with base.open("rb") as original:
            shutil.copyfileobj(original, file)
        file.flush()
        scale_rows(partial, rows, neurons.scale)
        shutil.copymode(base, partial)
        partial.replace(output)
    return output


def _places(file: Any, entries: dict[str, Any], expected: Tensor) -> Iterator[tuple[str, int]]:
    """The tensors that hold these values, as a whole or behind those of queries and keys, and the row where they begin."""
    out, *features = expected.shape
    for key, entry in entries.items():
        for first in (0, 2 * out):
            if not key.startswith(_AVERAGED) and entry.get("shape") == [first + out, *features]:
                there = file.get_tensor(key)[first:].to(expected.dtype)
                if torch.equal(there, expected):
                    yield key, first
