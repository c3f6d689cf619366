"""What differs between an artefact and its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from unmemorize.export._carried import KEY
from unmemorize.export._expected import ExpectedLayer
from unmemorize.export._rows import differing_rows, read_header


@dataclass(frozen=True)
class Difference:
    """One difference from the base, or one edit that is missing.

    Args:
        file: relative to the artefact's folder.
        key: the tensor, or the layer that a LoRA changes. Empty where the whole file differs.
        rows: the rows that differ. Empty where the tensor is missing, or of another shape or type.
        expected: whether it is what the edit asks for: these rows, with these values.
    """

    file: str
    key: str
    rows: tuple[int, ...]
    expected: bool


@dataclass(frozen=True)
class ExpectedRows:
    """What rows of a tensor of an artefact should be.

    Args:
        layer: a layer that it holds.
        name: "weight" or "bias".
        first_row: where the layer's rows begin in the tensor.
        count: how many they are; None for all.
    """

    layer: ExpectedLayer
    name: str
    first_row: int = 0
    count: int | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """Return the rows."""
        return tensor[self.first_row :][: self.count]


def tensor_changes(
    edited: Path, base: Path, name: str, expected: Mapping[str, Sequence[ExpectedRows]]
) -> Iterator[Difference]:
    """Compare two safetensors files, tensor by tensor.

    Args:
        edited: the edited file.
        base: the file it was made from.
        name: the file's name in the changes.
        expected: tensor name -> what it should be. All others must be the base's.

    Raises:
        ExportError: a file cannot be read.
    """
    before, after = read_header(base), read_header(edited)
    if _foreign(before.metadata) != _foreign(after.metadata):
        yield Difference(name, "__metadata__", (), expected=False)
    with safe_open(base, framework="pt") as old, safe_open(edited, framework="pt") as new:
        for key in sorted(before.tensors.keys() | after.tensors.keys()):
            one, other = before.tensors.get(key), after.tensors.get(key)
            if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
                yield Difference(name, key, (), expected=False)
                continue
            original, edit = old.get_tensor(key), new.get_tensor(key)
            differing = tuple(differing_rows(original, edit))
            right = _as_expected(original, edit, differing, expected.get(key, ()))
            if differing or not right:
                yield Difference(name, key, differing, right)


def _foreign(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in metadata.items() if name != KEY}


def _as_expected(
    original: Tensor, edit: Tensor, differing: Sequence[int], expected: Sequence[ExpectedRows]
) -> bool:
    if not expected:
        return not differing
    if not original.is_floating_point():
        return False
    may_differ: set[int] = set()
    for part in expected:
        before = part.of(original)
        wanted = part.layer.value(part.name, before)
        change = wanted - before.double()
        if not part.layer.is_right(part.of(edit), wanted, change):
            return False
        rows = torch.nonzero(change.reshape(len(change), -1).any(1)).flatten()
        may_differ.update((rows + part.first_row).tolist())
    return set(differing) <= may_differ
