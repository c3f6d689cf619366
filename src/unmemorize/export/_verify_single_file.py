"""Compare an edited single-file checkpoint with its base."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from unmemorize.export._carried import AnyEditFile
from unmemorize.export._changes import Difference, ExpectedRows, tensor_changes
from unmemorize.export._expected import expected_layers
from unmemorize.export._exportable import exportable
from unmemorize.export._single_file import layers_in_single_file
from unmemorize.pipelines import Model


def single_file_changes(
    edited: Path, base: Path, model: Model, file: AnyEditFile
) -> Iterator[Difference]:
    """List all differences between an edited single file and its base.

    Args:
        edited: the edited file.
        base: the file it was made from.
        model: the base, loaded from a folder with the same weights.
        file: what should be edited.

    Raises:
        ExportError: a file cannot be read, or the base does not hold the model's weights.
    """
    layers = expected_layers(model, file)
    expected: dict[str, list[ExpectedRows]] = defaultdict(list)
    for place in layers_in_single_file(base, exportable(model, file)):
        rows = ExpectedRows(layers[place.path], place.name, place.first_row, place.rows)
        expected[place.key].append(rows)
    yield from tensor_changes(edited, base, edited.name, expected)
