"""What differs between an artefact and its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from unmemorize.export._carried import KEY
from unmemorize.export._rows import differing_rows, read_header, same_up_to_rounding


@dataclass(frozen=True)
class Change:
    """One difference from the base, or one edit that is missing.

    Args:
        file: relative to the artefact's folder.
        key: the tensor, or the layer that a LoRA changes. Empty where the whole file differs.
        rows: the rows that differ. Empty where the tensor is missing, or of another shape or type.
        expected: whether it is what the neuron file asks for: these rows, with these values.
    """

    file: str
    key: str
    rows: tuple[int, ...]
    expected: bool


def tensor_changes(
    edited: Path,
    base: Path,
    name: str,
    rows: Mapping[str, Sequence[int]],
    scale: float,
) -> Iterator[Change]:
    """Compare two safetensors files, tensor by tensor.

    Args:
        edited: the edited file.
        base: the file it was made from.
        name: the file's name in the changes.
        rows: tensor name -> rows that must be the base's times the scale.
        scale: the factor.

    Raises:
        ExportError: a file cannot be read.
    """
    before, after = read_header(base), read_header(edited)
    if _foreign(before.metadata) != _foreign(after.metadata):
        yield Change(name, "__metadata__", (), expected=False)
    with safe_open(base, framework="pt") as old, safe_open(edited, framework="pt") as new:
        for key in sorted(before.tensors.keys() | after.tensors.keys()):
            one, other = before.tensors.get(key), after.tensors.get(key)
            if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
                yield Change(name, key, (), expected=False)
                continue
            original, edit = old.get_tensor(key), new.get_tensor(key)
            differing = tuple(differing_rows(original, edit))
            wanted = rows.get(key, ())
            right = set(differing) <= set(wanted) and _scaled_by(original, edit, wanted, scale)
            if differing or not right:
                yield Change(name, key, differing, right)


def _foreign(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in metadata.items() if name != KEY}


def _scaled_by(original: Tensor, edit: Tensor, rows: Sequence[int], scale: float) -> bool:
    if not rows:
        return True
    if not original.is_floating_point():
        return False
    expected = original[list(rows)].double() * scale
    return same_up_to_rounding(edit[list(rows)], expected)
