"""Rows of tensors inside safetensors files, replaced in place.

Nothing else in a checkpoint changes, not one byte.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unmemorize._errors import ExportError
from unmemorize._files import safetensors_header

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CHUNK = 16 * 1024**2
"""Bytes that are copied at once."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file.

    Args:
        dtype: as the file names it, such as "F32".
        shape: its shape.
        begin: the offset of its first byte behind the header.
        end: the offset behind its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about its content.

    Args:
        tensors: by name, in the order of the file.
        metadata: texts by name.
        data_start: the offset of the first byte behind the header.
    """

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file.

    Raises:
        ExportError: the file cannot be read or is damaged.
    """
    try:
        with safe_open(path, framework="pt"):  # checks that every tensor lies inside the file
            pass
        with path.open("rb") as file:
            entries, data_start = _entries(file)
    except (OSError, ValueError, SafetensorError) as problem:
        raise ExportError(
            f"{path}: it cannot be read as safetensors ({problem}). "
            "Download or save the model again."
        ) from problem
    metadata = entries.pop("__metadata__", {})
    tensors = {
        name: StoredTensor(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
        for name, entry in entries.items()
    }
    return Header(tensors, metadata, data_start)


def copy_with_metadata(source: Path, target: BinaryIO, metadata: Mapping[str, str]) -> None:
    """Copy a safetensors file and add metadata to its header; the tensors keep every byte."""
    with source.open("rb") as file:
        entries, _ = _entries(file)
        entries["__metadata__"] = {**entries.get("__metadata__", {}), **metadata}
        target.write(safetensors_header(entries))
        while chunk := file.read(_CHUNK):
            target.write(chunk)


@dataclass(frozen=True)
class Rewrite:
    """New values for some rows of a tensor in a file.

    Args:
        key: the name of the tensor.
        first_row: where the rows begin. The rows of a vector are its entries.
        rows: how many there are.
        change: what the file has in these rows -> their new values, in any floating point type.
    """

    key: str
    first_row: int
    rows: int
    change: Callable[[Tensor], Tensor]


def rewrite_rows(path: Path, rewrites: Sequence[Rewrite]) -> None:
    """Replace rows of matrices, or entries of vectors, in the file.

    Args:
        path: the safetensors file.
        rewrites: the new rows.

    Raises:
        ExportError: a tensor is not of a floating point type with 16 bits or more, a new value is
            too large for it, or the file cannot be written.
    """
    header = read_header(path)
    for rewrite in rewrites:
        dtype = header.tensors[rewrite.key].dtype
        if dtype not in _DTYPES:
            raise ExportError(
                f"{path}: {rewrite.key} is stored as {dtype}. "
                f"Export from a checkpoint in {', '.join(_DTYPES)}."
            )
    try:
        with path.open("r+b") as file:
            for rewrite in rewrites:
                stored = header.tensors[rewrite.key]
                row_bytes = (stored.end - stored.begin) // stored.shape[0]
                offset = header.data_start + stored.begin + rewrite.first_row * row_bytes
                file.seek(offset)
                data = bytearray(file.read(rewrite.rows * row_bytes))
                rows = torch.frombuffer(data, dtype=_DTYPES[stored.dtype])
                rows = rows.reshape(rewrite.rows, *stored.shape[1:])
                changed = rewrite.change(rows).to(rows.dtype)
                refuse_infinite(path, rewrite.key, changed)
                file.seek(offset)
                file.write(changed.contiguous().view(torch.uint8).numpy().tobytes())
    except OSError as problem:
        raise ExportError(
            f"{path}: cannot be written ({problem.strerror}). Free space, or choose another folder."
        ) from problem


def refuse_infinite(path: Path, key: str, values: Tensor) -> None:
    """Refuse to write values that are too large for their type.

    Args:
        path: the safetensors file.
        key: the name of the tensor.
        values: of the tensor or of some of its rows.

    Raises:
        ExportError: one of them is infinite or no number.
    """
    if not bool(torch.isfinite(values).all()):
        stored = next(name for name, dtype in _DTYPES.items() if dtype == values.dtype)
        raise ExportError(
            f"{path}: an edited value of {key} is too large for {stored}. "
            "Export from a checkpoint in F32."
        )


def differing_rows(base: Tensor, other: Tensor) -> list[int]:
    """List the rows in which two tensors of one shape and type differ in any bit.

    The rows of a vector are its entries; a single value has the row 0.
    """
    if not base.numel():
        return []
    count = len(base) if base.ndim else 1
    first, second = (
        tensor.reshape(count, -1).contiguous().view(torch.uint8) for tensor in (base, other)
    )
    return torch.nonzero((first != second).any(1)).flatten().tolist()


def beyond_rounding(one: Tensor, other: Tensor, *coarsest: torch.dtype) -> Tensor:
    """Return by how much two tensors of one shape differ more than two roundings explain.

    Args:
        one, other: tensors of any floating point types, on any device.
        coarsest: further types in which the values may have been rounded.

    Returns:
        float64, on the CPU, of the same shape: 0 where the coarsest of all types explains it.
    """
    types = [torch.finfo(dtype) for dtype in (one.dtype, other.dtype, *coarsest)]
    relative = 2 * max(info.eps for info in types)
    smallest = max(info.smallest_normal * info.eps for info in types)
    found, expected = (tensor.detach().to("cpu", torch.float64) for tensor in (one, other))
    excess = ((found - expected).abs() - smallest - relative * expected.abs()).clamp_min(0)
    return torch.where(found == expected, 0.0, excess)


def same_up_to_rounding(one: Tensor, other: Tensor, *coarsest: torch.dtype) -> bool:
    """Tell whether two tensors have one shape and agree up to rounding, see `beyond_rounding`."""
    return one.shape == other.shape and not bool(beyond_rounding(one, other, *coarsest).any())


def _entries(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Read the JSON header of an open safetensors file, and where the data begin."""
    (length,) = struct.unpack("<Q", file.read(8))
    return json.loads(file.read(length)), 8 + length
