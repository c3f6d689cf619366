"""Compare an edited single-file checkpoint with its base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unmemorize.export._changes import Change, tensor_changes
from unmemorize.export._single_file import rows_in_single_file
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model


def single_file_changes(
    edited: Path, base: Path, model: Model, neurons: NeuronFile
) -> Iterator[Change]:
    """List all differences between an edited single file and its base.

    Args:
        edited: the edited file.
        base: the file it was made from.
        model: the base, loaded from a folder with the same weights.
        neurons: what should be scaled.

    Raises:
        ExportError: a file cannot be read, or the base does not hold the model's weights.
    """
    rows = rows_in_single_file(base, model, neurons)
    yield from tensor_changes(edited, base, edited.name, rows, neurons.scale)
