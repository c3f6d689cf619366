from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from conftest import PROMPTS, make_pipeline
from unmemorize import Model, Statistics, StatisticsError, compute_statistics
from unmemorize.statistics import activations
from unmemorize.statistics._statistics import StatisticsAccumulator


def test_activation_is_the_mean_absolute_output_over_all_tokens(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    text = model.encode(PROMPTS[:2])
    assert text.text.shape == (2, 16, 16)
    for path, value in activations(model, text).items():
        weight = pipe.unet.get_parameter(f"{path}.weight").double().numpy()
        by_hand = np.abs(text.text.double().numpy() @ weight.T).mean(1)
        np.testing.assert_allclose(value.numpy(), by_hand, rtol=1e-4)


def test_statistics_against_numpy_in_float64(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    statistics = compute_statistics(pipe, PROMPTS, batch=4)
    assert statistics.count == len(PROMPTS)
    for path, value in activations(model, model.encode(PROMPTS)).items():
        rows = value.double().numpy()
        np.testing.assert_allclose(statistics.mean[path], rows.mean(0), rtol=1e-5)
        np.testing.assert_allclose(statistics.std[path], rows.std(0, ddof=1), rtol=1e-3, atol=1e-7)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.integers(1, 29))
def test_streaming_in_any_split_gives_numpy_mean_and_std(values: list[float], cut: int) -> None:
    running = StatisticsAccumulator()
    for part in (values[:cut], values[cut:]):
        if part:
            running.update(
                {"a": torch.tensor(part, dtype=torch.float64)[:, None]}, list(map(str, part))
            )
    result = running.compute("f")
    np.testing.assert_allclose(result.mean["a"].item(), np.mean(values), rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(result.std["a"].item(), np.std(values, ddof=1), rtol=1e-9, atol=1e-7)


def test_merged_shards_are_the_whole(pipe: DiffusionPipeline) -> None:
    whole = compute_statistics(pipe, PROMPTS)
    merged = compute_statistics(pipe, PROMPTS[1::2]).merge(compute_statistics(pipe, PROMPTS[::2]))
    assert (merged.count, merged.prompts, merged.fingerprint) == (
        whole.count,
        whole.prompts,
        whole.fingerprint,
    )
    assert compute_statistics(pipe, PROMPTS[:5]).prompts != whole.prompts
    for path in whole.mean:
        torch.testing.assert_close(merged.mean[path], whole.mean[path], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(merged.std[path], whole.std[path], rtol=1e-4, atol=1e-7)


def test_z_scores_of_constant_neurons() -> None:
    statistics = Statistics(
        mean={"a": torch.tensor([1.0, 1.0, 1.0])},
        std={"a": torch.tensor([0.0, 0.0, 0.5])},
        count=2,
        fingerprint="",
        prompts="",
    )
    scores = statistics.z_scores({"a": torch.tensor([1.0, 2.0, 0.0])})
    assert scores["a"].tolist() == pytest.approx([0.0, 1e12, 2.0])


def test_file_round_trip(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    statistics = compute_statistics(pipe, PROMPTS)
    statistics.save(tmp_path / "s.safetensors")
    loaded = Statistics.load(tmp_path / "s.safetensors")
    assert (loaded.count, loaded.fingerprint, loaded.prompts) == (
        statistics.count,
        statistics.fingerprint,
        statistics.prompts,
    )
    assert all(
        torch.equal(loaded.mean[path], statistics.mean[path])
        and torch.equal(loaded.std[path], statistics.std[path])
        for path in statistics.mean
    )
    loaded.check(Model(pipe))


def test_statistics_of_another_model_are_refused(pipe: DiffusionPipeline) -> None:
    statistics, other = compute_statistics(pipe, PROMPTS), make_pipeline(seed=1)
    with pytest.raises(StatisticsError, match="those of another model"):
        statistics.check(Model(other))
    with pytest.raises(StatisticsError, match="cannot be merged"):
        statistics.merge(compute_statistics(other, PROMPTS))


def test_one_prompt_is_too_few(pipe: DiffusionPipeline) -> None:
    with pytest.raises(StatisticsError, match="at least 2"):
        compute_statistics(pipe, ["one"])


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (
            {"a": torch.zeros(1)},
            {"schema": "x", "count": "3", "fingerprint": "", "prompts": ""},
            "not a statistics file of schema",
        ),
        ({"a": torch.zeros(1)}, {}, "not a valid statistics file"),
        (
            {"mean/a": torch.tensor([float("nan")]).double(), "std/a": torch.zeros(1).double()},
            {"schema": "unmemorize.statistics/1", "count": "3", "fingerprint": "", "prompts": ""},
            "NaN",
        ),
    ],
)
def test_malformed_files_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], message: str
) -> None:
    save_file(tensors, tmp_path / "s.safetensors", metadata)
    with pytest.raises(StatisticsError, match=message):
        Statistics.load(tmp_path / "s.safetensors")


def test_missing_and_truncated_files_are_refused(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    with pytest.raises(StatisticsError, match="cannot be read"):
        Statistics.load(path)
    compute_statistics(pipe, PROMPTS).save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StatisticsError, match="not a valid statistics file"):
        Statistics.load(path)


def test_prompts_are_streamed(pipe: DiffusionPipeline) -> None:
    """Prompts are asked for batch by batch, and not all of them before the first batch is done."""
    asked: list[str] = []
    reported: list[tuple[int, int, int | None]] = []

    def stream() -> Iterator[str]:
        for text in PROMPTS:
            asked.append(text)
            yield text

    whole = compute_statistics(pipe, PROMPTS)
    found = compute_statistics(
        pipe,
        stream(),
        batch=2,
        progress=lambda done, total: reported.append((len(asked), done, total)),
    )
    assert reported == [(2, 2, None), (4, 4, None), (6, 6, None)]
    assert (found.count, found.prompts) == (whole.count, whole.prompts)


def test_single_activations_are_kept_on_demand(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    statistics = compute_statistics(pipe, PROMPTS, batch=4, raw=tmp_path / "raw")
    with pytest.raises(StatisticsError, match="Name a new folder"):
        compute_statistics(pipe, PROMPTS, raw=tmp_path / "raw")
    files = sorted((tmp_path / "raw").iterdir())
    assert [file.name for file in files] == ["00000000.safetensors", "00000004.safetensors"]
    parts = [load_file(file) for file in files]
    for path, mean in statistics.mean.items():
        rows = torch.cat([part[path] for part in parts])
        assert rows.shape == (len(PROMPTS), len(mean))
        torch.testing.assert_close(rows.double().mean(0), mean)


def test_the_same_statistics_are_the_same_bytes(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    statistics = compute_statistics(pipe, PROMPTS)
    for number in range(8):  # the order of metadata differed from one to the next
        statistics.save(tmp_path / f"{number}.safetensors")
    assert len({(tmp_path / f"{number}.safetensors").read_bytes() for number in range(8)}) == 1
    assert len((tmp_path / "0.safetensors").read_bytes()) % 8 == 0
