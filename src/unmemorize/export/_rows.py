"""Rows of weights inside safetensors files, multiplied in place: not one other byte of a checkpoint changes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unmemorize._errors import ExportError

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def header(path: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says about its tensors, and where their data begins.

    Raises:
        ExportError: it is none.
    """
    try:
        with safe_open(path, framework="pt"):  # checks that every tensor lies inside of the file
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            return json.loads(file.read(length)), 8 + length
    except (OSError, ValueError, SafetensorError) as problem:
        raise ExportError(
            f"{path}: it cannot be read as safetensors ({problem}). Download or save the model again."
        ) from problem


def scale_rows(path: Path, rows: Mapping[str, Sequence[int]], scale: float) -> None:
    """Multiply some rows of tensors (entries of vectors), given by the tensors' names, by a number, in the file.

    Raises:
        ExportError: a tensor has another type than the usual floating point ones, or the file cannot be written.
    """
    entries, start = header(path)
    for key in rows:
        if entries[key]["dtype"] not in _DTYPES:
            raise ExportError(
                f"{path}: {key} is stored as {entries[key]['dtype']}. Export from a checkpoint in {', '.join(_DTYPES)}."
            )
    try:
        with path.open("r+b") as file:
            for key, indices in rows.items():
                begin, end = entries[key]["data_offsets"]
                size = (end - begin) // entries[key]["shape"][0]
                for index in indices:
                    place = start + begin + index * size
                    file.seek(place)
                    values = torch.frombuffer(
                        bytearray(file.read(size)), dtype=_DTYPES[entries[key]["dtype"]]
                    )
                    file.seek(place)
                    file.write(_scaled(values, scale).view(torch.uint8).numpy().tobytes())
    except OSError as problem:
        raise ExportError(
            f"{path}: cannot be written ({problem.strerror}). Free space, or choose another folder."
        ) from problem


def with_scaled_rows(tensor: Tensor, rows: Sequence[int], scale: float) -> Tensor:
    """What `scale_rows` makes of a tensor."""
    changed = tensor.clone()
    changed[list(rows)] = _scaled(tensor[list(rows)], scale)
    return changed


def _scaled(values: Tensor, scale: float) -> Tensor:
    return values * scale + 0.0  # which turns -0.0 into 0.0


def differing_rows(base: Tensor, other: Tensor) -> list[int]:
    """The rows (of a vector the entries, of a single value row 0) in which two tensors of one shape and type differ in any bit."""
    if not base.numel():
        return []
    count = len(base) if base.ndim else 1
    first, second = (
        tensor.reshape(count, -1).contiguous().view(torch.uint8) for tensor in (base, other)
    )
    return torch.nonzero((first != second).any(1)).flatten().tolist()
