"""The arithmetic of statistics, compared with numpy, and what a `Statistics` refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st

from conftest import PROMPTS, make_pipeline
from unmemorize import Model, Statistics, StatisticsError, compute_statistics
from unmemorize.statistics import activations
from unmemorize.statistics._statistics import StatisticsAccumulator, hash_prompts


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
    for chunk in (values[:cut], values[cut:]):
        if chunk:
            activation = {"a": torch.tensor(chunk, dtype=torch.float64)[:, None]}
            running.update(activation, list(map(str, chunk)))
    result = running.compute("f")
    assert result.count == len(values)
    assert result.fingerprint == "f"
    np.testing.assert_allclose(result.mean["a"].item(), np.mean(values), rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(result.std["a"].item(), np.std(values, ddof=1), rtol=1e-9, atol=1e-7)


def test_merged_shards_are_the_whole(pipe: DiffusionPipeline) -> None:
    whole = compute_statistics(pipe, PROMPTS)
    merged = compute_statistics(pipe, PROMPTS[4:]).merge(compute_statistics(pipe, PROMPTS[:4]))
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
    path, mean = next(iter(statistics.mean.items()))
    fewer = replace(statistics, mean={path: mean}, std={path: statistics.std[path]})
    with pytest.raises(StatisticsError, match="cannot be merged"):
        statistics.merge(fewer)
    narrower = replace(statistics, mean=dict(statistics.mean) | {path: mean[1:]})
    with pytest.raises(StatisticsError, match="cannot be merged"):
        statistics.merge(narrower)


def test_the_same_prompts_never_count_twice(pipe: DiffusionPipeline) -> None:
    statistics = compute_statistics(pipe, PROMPTS)
    with pytest.raises(StatisticsError, match="of the same prompts"):
        statistics.merge(statistics)


def test_statistics_must_cover_the_layers_that_are_searched(pipe: DiffusionPipeline) -> None:
    model, statistics = Model(pipe), compute_statistics(pipe, PROMPTS)
    first, *others = statistics.mean
    statistics.check(model, statistics.mean)
    fewer = replace(statistics, mean={path: statistics.mean[path] for path in others})
    fewer.check(model, others)
    with pytest.raises(
        StatisticsError, match=rf"0 neurons in {first}, .* has {model.widths[first]}"
    ):
        fewer.check(model, [first])
    wider = replace(statistics, mean=dict(statistics.mean) | {first: torch.zeros(99)})
    with pytest.raises(StatisticsError, match=f"99 neurons in {first}.*Search other layers"):
        wider.check(model, [first])


def test_statistics_without_a_fingerprint_fit_every_model(pipe: DiffusionPipeline) -> None:
    published = replace(compute_statistics(pipe, PROMPTS), fingerprint="")
    published.check(Model(make_pipeline(seed=1)), published.mean)


@pytest.mark.parametrize("prompts", [[], ["one"]])
def test_too_few_prompts(pipe: DiffusionPipeline, prompts: list[str]) -> None:
    with pytest.raises(StatisticsError, match=rf"{len(prompts)} prompt\(s\).*at least 2"):
        compute_statistics(pipe, prompts)


def test_the_hash_of_prompts_does_not_depend_on_their_order() -> None:
    assert hash_prompts(PROMPTS) == hash_prompts(PROMPTS[::-1])
    assert hash_prompts(PROMPTS) != hash_prompts(PROMPTS[1:])
    assert hash_prompts(["ab", "c"]) != hash_prompts(["a", "bc"])
    assert hash_prompts(["a", "a"]) != hash_prompts(["a"])
    total = int(hash_prompts(PROMPTS[:2]), 16) + int(hash_prompts(PROMPTS[2:]), 16)
    assert int(hash_prompts(PROMPTS), 16) == total % 2**256


def test_the_same_statistics_are_the_same_bytes(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    statistics = compute_statistics(pipe, PROMPTS)
    for number in range(8):  # the order of metadata differed from one to the next
        statistics.save(tmp_path / f"{number}.safetensors")
    assert len({(tmp_path / f"{number}.safetensors").read_bytes() for number in range(8)}) == 1
    assert len((tmp_path / "0.safetensors").read_bytes()) % 8 == 0
