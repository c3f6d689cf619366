"""How activations of many prompts become statistics: batches, failures, shards and files."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import PROMPTS, make_pipeline
from unmemorize import Model, Prompt, RunError, Statistics, StatisticsError, compute_statistics
from unmemorize.engines import Execution, Shard
from unmemorize.pipelines import Conditioning
from unmemorize.runs import Run
from unmemorize.statistics import activations

TEXTS = [f"{letter} word" for letter in "abcdefghijklmnop"]


@pytest.fixture(scope="module")
def model() -> Model:
    """A tiny model, which nobody changes."""
    return Model(make_pipeline())


@pytest.fixture(scope="module")
def expected(model: Model) -> dict[str, np.ndarray]:
    """The activations of TEXTS, each measured alone, layer -> (prompts, features)."""
    rows = [activations(model, model.encode([text])) for text in TEXTS]
    return {
        path: np.concatenate([row[path].double().numpy() for row in rows])
        for path in model.value_layers
    }


def check(statistics: Statistics, expected: dict[str, np.ndarray]) -> None:
    assert statistics.mean.keys() == statistics.std.keys() == expected.keys()
    for path, rows in expected.items():
        assert rows.std(0).max() > 1e-3
        np.testing.assert_allclose(statistics.mean[path], rows.mean(0), rtol=1e-5)
        np.testing.assert_allclose(statistics.std[path], rows.std(0, ddof=1), rtol=1e-3, atol=1e-7)


def at_most(
    limit: int, monkeypatch: pytest.MonkeyPatch, refused: Sequence[str] = ()
) -> list[tuple[str, ...]]:
    """Let only so many prompts fit into memory, and some not at all; returns what was tried."""
    encode = Model.encode
    calls: list[tuple[str, ...]] = []

    def encode_some(self: Model, texts: Sequence[str]) -> Conditioning:
        calls.append(tuple(texts))
        if len(texts) > limit:
            raise MemoryError(f"at most {limit} fit")
        if any(text in refused for text in texts):
            raise ValueError("cannot be read.")
        return encode(self, texts)

    monkeypatch.setattr(Model, "encode", encode_some)
    return calls


@pytest.mark.parametrize("batch", [1, 3, 16, 64])
def test_any_batch_size_gives_the_same(
    model: Model, expected: dict[str, np.ndarray], batch: int
) -> None:
    statistics = compute_statistics(model, TEXTS, batch=batch)
    check(statistics, expected)
    assert statistics.count == 16


def test_a_batch_that_fails_as_a_whole_is_halved(
    model: Model,
    expected: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 16 prompts at most 4 fit. The first prompt was once taken for all of them."""
    calls = at_most(4, monkeypatch)
    statistics = compute_statistics(model, TEXTS, batch=16, raw=tmp_path / "raw")
    assert [len(call) for call in calls] == [16, 8, 4, 4, 8, 4, 4]
    check(statistics, expected)
    assert statistics.count == 16
    (file,) = (tmp_path / "raw").iterdir()
    for path, rows in load_file(file).items():
        np.testing.assert_allclose(rows, expected[path], rtol=1e-4)
        assert rows.shape == (16, model.widths[path])


def test_single_activations_are_kept_on_demand(
    model: Model, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    statistics = compute_statistics(model, TEXTS, batch=6, raw=tmp_path / "raw")
    with pytest.raises(StatisticsError, match=r"raw: exists already. Name a new folder"):
        compute_statistics(model, TEXTS, raw=tmp_path / "raw")
    files = sorted((tmp_path / "raw").iterdir())
    assert [file.stem for file in files] == ["000000", "000001", "000002"]
    of_batches = [load_file(file) for file in files]
    for path, rows in expected.items():
        raw = torch.cat([batch[path] for batch in of_batches])
        np.testing.assert_allclose(raw, rows, rtol=1e-4)
        torch.testing.assert_close(raw.double().mean(0), statistics.mean[path])


def test_a_batch_holds_a_prompt(model: Model) -> None:
    with pytest.raises(StatisticsError, match=r"batch=0: at least 1 is needed"):
        compute_statistics(model, TEXTS, batch=0)


def test_a_finished_run_gives_its_raw_activations_again(model: Model, tmp_path: Path) -> None:
    compute_statistics(model, TEXTS, raw=tmp_path / "one", folder=tmp_path / "run")
    compute_statistics(model, TEXTS, raw=tmp_path / "two", folder=tmp_path / "run")
    one, two = (next((tmp_path / name).iterdir()).read_bytes() for name in ("one", "two"))
    assert one == two


def test_prompts_are_not_held_in_memory(model: Model) -> None:
    alive: weakref.WeakSet[Prompt] = weakref.WeakSet()
    most = 0

    def stream() -> Iterator[Prompt]:
        nonlocal most
        for number in range(50):
            prompt = Prompt(f"{TEXTS[number % 16]} {number}")
            alive.add(prompt)
            gc.collect(0)
            most = max(most, len(alive))
            yield prompt

    reported: list[tuple[int, int | None]] = []
    execution = Execution(progress=lambda *at: reported.append(at))
    statistics = compute_statistics(model, stream(), batch=20, execution=execution)
    assert statistics.count == 50
    assert most <= 3
    assert reported == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_interrupted_statistics_are_resumed(model: Model, tmp_path: Path) -> None:
    def stop(done: int, _total: int | None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        compute_statistics(
            model, PROMPTS, batch=2, folder=folder, execution=Execution(progress=stop)
        )
    reported: list[int] = []
    execution = Execution(progress=lambda done, _: reported.append(done))
    resumed = compute_statistics(model, PROMPTS, batch=2, folder=folder, execution=execution)
    assert reported == [2, 3]
    resumed.save(tmp_path / "one")
    compute_statistics(model, PROMPTS, batch=2).save(tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize(
    ("prompts", "batch", "seed", "message"),
    [
        (PROMPTS[::-1], 2, 0, "made with prompts"),
        (PROMPTS, 3, 0, "made with batch = 2, now it is 3"),
        (PROMPTS, 2, 1, "made with fingerprint"),
    ],
)
def test_another_run_is_not_resumed(
    tmp_path: Path, prompts: list[str], batch: int, seed: int, message: str
) -> None:
    compute_statistics(make_pipeline(), PROMPTS, batch=2, folder=tmp_path / "run")
    with pytest.raises(RunError, match=rf"{message}.*or delete .*run to start again"):
        compute_statistics(make_pipeline(seed), prompts, batch=batch, folder=tmp_path / "run")


def test_sums_of_another_model_are_refused(model: Model, tmp_path: Path) -> None:
    for seed in (0, 1):
        compute_statistics(make_pipeline(seed), PROMPTS, folder=tmp_path / str(seed))
    sums = "sums/000000.safetensors"
    (tmp_path / "0" / sums).write_bytes((tmp_path / "1" / sums).read_bytes())
    with pytest.raises(StatisticsError, match="the activations of another model"):
        compute_statistics(model, PROMPTS, folder=tmp_path / "0")


def test_prompts_that_fail_are_named_and_tried_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [*PROMPTS[:3], "bad one", *PROMPTS[3:], "bad two"]
    with monkeypatch.context() as patches:
        at_most(64, patches, refused=["bad one", "bad two"])
        with pytest.raises(
            StatisticsError,
            match=r"prompts fail in 2 of 4 batches: 'bad one' \(ValueError: cannot be read\), "
            r"'bad two' \(ValueError: cannot be read\). Leave these prompts out, or repeat",
        ):
            compute_statistics(model, prompts, batch=2, folder=tmp_path / "run")
    run = Run.load(tmp_path / "run")
    assert sorted(run.records("batches")) == [0, 2]
    assert sorted(run.failures("batches")) == [1, 3]
    again = compute_statistics(model, prompts, batch=2, folder=tmp_path / "run")
    whole = compute_statistics(model, prompts, batch=2)
    assert (again.count, again.prompts) == (whole.count, whole.prompts) == (8, whole.prompts)
    for path, mean in whole.mean.items():
        assert torch.equal(again.mean[path], mean)


def test_a_prompt_that_occurs_twice_counts_twice(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    statistics = compute_statistics(model, ["a word", "a word", "b word"])
    assert statistics.count == 3
    at_most(64, monkeypatch, refused=["a word"])
    with pytest.raises(StatisticsError, match=r"'a word' .*, 'a word' "):
        compute_statistics(model, ["a word", "a word", "b word"])


def test_a_shard_of_one_run_is_refused(model: Model) -> None:
    with pytest.raises(StatisticsError, match=r"shard 1-of-2: .*join the results by .*merge"):
        compute_statistics(model, PROMPTS, execution=Execution(shard=Shard(1, 2)))
