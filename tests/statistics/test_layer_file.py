"""Files of statistics: what is read back, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unmemorize import Statistics, StatisticsError
from unmemorize.statistics._statistics import StatisticsAccumulator

METADATA = {
    "schema": "unmemorize.statistics/1",
    "count": "3",
    "fingerprint": "f",
    "prompts": "ab",
}


def tensors(mean: list[float], std: list[float]) -> dict[str, torch.Tensor]:
    return {
        "mean/a": torch.tensor(mean, dtype=torch.float64),
        "std/a": torch.tensor(std, dtype=torch.float64),
    }


def test_a_file_by_hand(tmp_path: Path) -> None:
    save_file(tensors([1.0, 2.0], [0.5, 0.0]), tmp_path / "s.safetensors", METADATA)
    statistics = Statistics.load(tmp_path / "s.safetensors")
    assert (statistics.count, statistics.fingerprint, statistics.prompts) == (3, "f", "ab")
    assert statistics.mean["a"].tolist() == [1.0, 2.0]
    assert statistics.std["a"].tolist() == [0.5, 0.0]


GOOD = tensors([1.0], [1.0])


@pytest.mark.parametrize(
    ("content", "metadata", "message"),
    [
        (GOOD, METADATA | {"schema": "x"}, "not a statistics file of schema"),
        (GOOD, {}, "not a statistics file of schema"),
        (GOOD, METADATA | {"count": "many"}, "damaged metadata"),
        (GOOD, METADATA | {"prompts": "xyz"}, "damaged metadata"),
        (GOOD, {k: v for k, v in METADATA.items() if k != "fingerprint"}, "damaged metadata"),
        (GOOD, METADATA | {"count": "0"}, "statistics of 0 prompts"),
        (GOOD, METADATA | {"count": "1"}, "of 1 prompt, but a standard deviation needs 2"),
        ({"a": torch.zeros(1)}, METADATA, "not one tensor mean and one tensor std"),
        ({"mean/a": GOOD["mean/a"]}, METADATA, "not one tensor mean and one tensor std"),
        ({key: value.float() for key, value in GOOD.items()}, METADATA, "of a are not float64"),
        (tensors([1.0, 2.0], [1.0]), METADATA, "are not two vectors of one length"),
        ({key: value[None] for key, value in GOOD.items()}, METADATA, "are not two vectors"),
        (tensors([float("nan")], [0.0]), METADATA, "of a hold NaN or infinity"),
        (tensors([0.0], [float("inf")]), METADATA, "of a hold NaN or infinity"),
        (tensors([0.0], [-1.0]), METADATA, "of a hold a negative spread"),
    ],
)
def test_malformed_files_are_refused(
    tmp_path: Path, content: dict[str, torch.Tensor], metadata: dict[str, str], message: str
) -> None:
    save_file(content, tmp_path / "s.safetensors", metadata)
    with pytest.raises(
        StatisticsError, match=rf"s.safetensors: .*{message}.*unmemorize statistics"
    ):
        Statistics.load(tmp_path / "s.safetensors")


def test_missing_and_truncated_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    with pytest.raises(StatisticsError, match="cannot be read"):
        Statistics.load(path)
    save_file(GOOD, path, METADATA)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StatisticsError, match="not a valid statistics file"):
        Statistics.load(path)


def test_sums_are_added_to_those_of_the_same_model(tmp_path: Path) -> None:
    values = torch.arange(10, dtype=torch.float64).square()[:, None]
    path = tmp_path / "sums.safetensors"
    first = StatisticsAccumulator()
    first.update({"a": values[:7]}, list("abcdefg"))
    path.write_bytes(first.to_bytes("f"))
    second = StatisticsAccumulator()
    second.update({"a": values[7:]}, list("hij"))
    second.add_file(path, "f")
    statistics = second.compute("f")
    torch.testing.assert_close(statistics.mean["a"], values.mean(0))
    torch.testing.assert_close(statistics.std["a"], values.std(0))
    assert statistics.count == 10
    with pytest.raises(StatisticsError, match="the activations of another model"):
        second.add_file(path, "g")
    statistics.save(path)
    with pytest.raises(StatisticsError, match=r"schema unmemorize.activation-sums/1"):
        second.add_file(path, "f")
