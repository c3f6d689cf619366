"""A checkpoint in one file, in which neurons are switched off for good.

The file may name its tensors as it likes: the value layers are found in it by their values.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor

from unmemorize._errors import ExportError
from unmemorize._files import temporary_file
from unmemorize.export._carried import as_metadata
from unmemorize.export._exportable import exportable
from unmemorize.export._rows import StoredTensor, copy_with_metadata, read_header, scale_rows
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model, weights_of

_AVERAGED = "model_ema."
"""Weights that the original programs keep for training and do not load."""
_PROJECTIONS_BEFORE = (0, 2)
"""How many projections of the same size a tensor holds in front of the values: none, or queries
and keys (Stable Diffusion 3 and Flux)."""


@dataclass(frozen=True)
class Location:
    """Where the rows of a value layer begin in a single file.

    Args:
        key: the name of the tensor.
        first_row: the row of it that is neuron 0.
    """

    key: str
    first_row: int


def export_single_file(
    pipe: DiffusionPipeline | Model, neurons: NeuronFile, base: str | Path, output: str | Path
) -> Path:
    """Copy a single-file checkpoint and multiply the rows of the neurons in it by the scale.

    The copy carries the neuron file in its metadata. Every other byte of its tensors is the
    base's.

    Args:
        pipe: the model, loaded from a diffusers folder with the same weights.
        neurons: what to switch off, and the scale (0 for off).
        base: the single file (safetensors), in any layout.
        output: where the copy goes. It appears when it is complete.

    Returns:
        The copy.

    Raises:
        ExportError: the copy exists, or the base does not hold a layer's weights exactly once, or
            a file cannot be read or written.
        NeuronError: the neurons belong to another model.
    """
    model = exportable(pipe, neurons)
    base, output = Path(base), Path(output)
    if output.exists():
        raise ExportError(f"{output}: exists already. Choose another file, or delete it first.")
    rows = rows_in_single_file(base, model, neurons)
    with temporary_file(output, ExportError) as (partial, file):
        copy_with_metadata(base, file, as_metadata(neurons))
        file.flush()
        scale_rows(partial, rows, neurons.scale)
        shutil.copymode(base, partial)
        partial.replace(output)
    return output


def rows_in_single_file(base: Path, model: Model, neurons: NeuronFile) -> dict[str, list[int]]:
    """Find the rows of neurons in a single file: tensor name -> rows.

    Raises:
        ExportError: the file cannot be read, or does not hold a layer's weights exactly once.
    """
    rows: dict[str, list[int]] = {}
    stored = read_header(base).tensors
    with safe_open(base, framework="pt") as tensors:
        for path, indices in neurons.neurons.layers.items():
            for name, weights in weights_of(model.value_layers[path]).items():
                locations = list(_locations(stored, tensors.get_tensor, weights.detach().cpu()))
                if len(locations) != 1:
                    raise ExportError(
                        f"{base}: it holds the {name} of {path} {len(locations)} times instead of "
                        "once. Load the model from a folder with the same weights, in the same "
                        "precision (--dtype)."
                    )
                rows[locations[0].key] = [locations[0].first_row + index for index in indices]
    return rows


def _locations(
    stored: Mapping[str, StoredTensor], read: Callable[[str], Tensor], expected: Tensor
) -> Iterator[Location]:
    features, *inputs = expected.shape
    for key, entry in stored.items():
        for projections in _PROJECTIONS_BEFORE:
            first_row = projections * features
            shape = (first_row + features, *inputs)
            if key.startswith(_AVERAGED) or entry.shape != shape:
                continue
            values = read(key)[first_row:].to(expected.dtype)
            if torch.equal(values, expected):
                yield Location(key, first_row)
