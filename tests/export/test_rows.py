import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unmemorize import ExportError
from unmemorize.export._rows import (
    Rewrite,
    beyond_rounding,
    copy_with_metadata,
    differing_rows,
    read_header,
    rewrite_rows,
    same_up_to_rounding,
)
from unmemorize.generation import LayerChange


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_in_every_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {"a": torch.randn(5, 3).to(dtype), "b": torch.randn(4).to(dtype)}
    save_file(weights, tmp_path / "w.safetensors")
    seen: list[torch.Tensor] = []

    def tripled(rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows.clone())
        return rows.double() * 3

    rewrite_rows(
        tmp_path / "w.safetensors", [Rewrite("a", 1, 3, tripled), Rewrite("b", 2, 2, tripled)]
    )
    after = load_file(tmp_path / "w.safetensors")
    expected = {name: value.clone() for name, value in weights.items()}
    expected["a"][1:4] = (expected["a"][1:4].double() * 3).to(dtype)
    expected["b"][2:] = (expected["b"][2:].double() * 3).to(dtype)
    assert all(torch.equal(after[name], expected[name]) for name in weights)
    assert {name: value.dtype for name, value in after.items()} == {"a": dtype, "b": dtype}
    assert torch.equal(seen[0], weights["a"][1:4])
    assert torch.equal(seen[1], weights["b"][2:])


def test_what_a_change_leaves_alone_keeps_every_byte(tmp_path: Path) -> None:
    values = torch.tensor([[-0.0, 1e-45], [1.0, -0.0], [3.0, -7.5]])
    save_file({"a": values}, tmp_path / "w.safetensors")
    change = LayerChange({1: 0.0})
    rewrite_rows(tmp_path / "w.safetensors", [Rewrite("a", 0, 3, change.of_weight)])
    after = load_file(tmp_path / "w.safetensors")["a"]
    assert torch.equal(after[[0, 2]].view(torch.int32), values[[0, 2]].view(torch.int32))
    assert torch.equal(after[1].view(torch.int32), torch.zeros(2, dtype=torch.int32))


def test_other_types_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3, 2, dtype=torch.int8)}, tmp_path / "w.safetensors")
    with pytest.raises(ExportError, match="a is stored as I8"):
        rewrite_rows(tmp_path / "w.safetensors", [Rewrite("a", 0, 3, torch.zeros_like)])


def test_values_that_are_too_large_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3, 2).half()}, tmp_path / "w.safetensors")
    with pytest.raises(ExportError, match="a is too large for F16"):
        rewrite_rows(
            tmp_path / "w.safetensors", [Rewrite("a", 0, 3, lambda rows: rows.double() * 1e6)]
        )


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(3, 2)}, file)
    header = read_header(file)
    monkeypatch.setattr("unmemorize.export._rows.read_header", lambda _path: header)
    with pytest.raises(ExportError, match="cannot be written"):
        rewrite_rows(tmp_path / "missing" / "w.safetensors", [Rewrite("a", 0, 3, torch.zeros_like)])


@pytest.mark.parametrize("length", range(8))
@pytest.mark.parametrize("given", [{"format": "pt"}, None])
def test_metadata_is_added_and_no_tensor_moves(
    length: int, given: dict[str, str] | None, tmp_path: Path
) -> None:
    text = "x" * length
    weights = {"b": torch.randn(3, 5), "a": torch.randn(7).half()}
    source, copy = tmp_path / "source.safetensors", tmp_path / "copy.safetensors"
    save_file(weights, source, given)
    with copy.open("wb") as file:
        copy_with_metadata(source, file, {"key": text})
    before, after = read_header(source), read_header(copy)
    assert after.metadata == (given or {}) | {"key": text}
    assert after.tensors == before.tensors
    assert after.data_start % 8 == 0
    assert copy.read_bytes()[after.data_start :] == source.read_bytes()[before.data_start :]
    assert all(torch.equal(load_file(copy)[name], value) for name, value in weights.items())


def test_the_header_says_where_tensors_lie(tmp_path: Path) -> None:
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + length])["a"]
    header = read_header(tmp_path / "w.safetensors")
    stored = header.tensors["a"]
    assert (stored.dtype, stored.shape) == ("F32", (2, 3))
    assert [stored.begin, stored.end] == entry["data_offsets"]
    assert header.data_start == 8 + length
    assert header.metadata == {}


def test_differing_rows_are_told_bit_by_bit() -> None:
    one = torch.tensor([[1.0, float("nan")], [0.0, 2.0]])
    assert differing_rows(one, one.clone()) == []
    assert differing_rows(one, torch.tensor([[1.0, float("nan")], [-0.0, 2.0]])) == [1]
    assert differing_rows(torch.tensor(1), torch.tensor(2)) == [0]
    assert differing_rows(torch.empty(0, 3), torch.empty(0, 3)) == []


def test_rounding_is_that_of_the_coarsest_type() -> None:
    values = torch.linspace(-3, 3, 101)
    assert same_up_to_rounding(values, values.half())
    assert same_up_to_rounding(values.bfloat16(), values)
    assert same_up_to_rounding(values * 1.0005, values, torch.float16)
    assert not same_up_to_rounding(values * 1.0005, values)
    assert not same_up_to_rounding(values.half() * 1.01, values)
    assert not same_up_to_rounding(values, values[:100])
    assert not same_up_to_rounding(torch.tensor([1e-30]), torch.tensor([0.0]))
    infinite = torch.tensor([torch.inf, 1.0])
    assert same_up_to_rounding(infinite, infinite)
    assert not same_up_to_rounding(infinite, torch.tensor([2.0, 1.0]))
    assert not same_up_to_rounding(torch.tensor([torch.nan]), torch.tensor([torch.nan]))


def test_what_rounding_does_not_explain() -> None:
    found, expected = torch.tensor([1.0005, -2.0, 0.01]), torch.tensor([1.0, -2.0, 0.0])
    beyond = beyond_rounding(found, expected, torch.float16)
    assert beyond.tolist() == pytest.approx([0.0, 0.0, 0.01], rel=1e-4)
