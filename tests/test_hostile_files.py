"""Damaged and hostile files give an error of ours or a valid object, never anything else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from conftest import PROMPTS, make_pipeline
from unmemorize import (
    Model,
    NeuronError,
    NeuronFile,
    Neurons,
    Statistics,
    StatisticsError,
    Threshold,
    UnmemorizeError,
    calibrate_threshold,
    compute_statistics,
    export_lora,
)
from unmemorize.export import Verification, verify
from unmemorize.export._carried import carried_edit
from unmemorize.generation import LowRank, WeightEdit

HOSTILE: list[Any] = [
    None,
    True,
    -1,
    10**400,
    1e308,
    -0.0,
    "",
    "\u0000",
    "a" * 100_000,
    "../../etc/passwd",
    [],
    {},
    [[]],
    {"": ""},
    [1.5],
    ["1"],
]


def valid_neurons(found: Any) -> None:
    assert isinstance(found, NeuronFile)
    assert all(isinstance(index, int) and index >= 0 for _, index in found.neurons)
    json.dumps(found.to_json(), allow_nan=False)


def valid_statistics(found: Any) -> None:
    assert isinstance(found, Statistics)
    assert found.count >= 2
    assert found.mean.keys() == found.std.keys()
    assert all(
        bool(torch.isfinite(value).all())
        for part in (found.mean, found.std)
        for value in part.values()
    )
    assert all(
        value.shape == found.mean[layer].shape == (len(value),) and bool((value >= 0).all())
        for layer, value in found.std.items()
    )


def valid_threshold(found: Any) -> None:
    assert isinstance(found, Threshold)
    assert abs(found.detect.tau) < float("inf")
    assert found.settings.seeds >= 2


def valid_verification(found: Any) -> None:
    assert isinstance(found, Verification)
    valid_neurons(found.edit)


def valid_answer(found: Any) -> None:
    assert found is True


Loaded = tuple[Path, Callable[[Path], Any], Callable[[Any], None]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loaded]:
    folder = tmp_path_factory.mktemp("files")
    pipe = make_pipeline()
    model = Model(pipe)
    neurons = NeuronFile.of(
        model,
        Neurons({path: [0, 3] for path in model.value_layers}),
        found={"command": "x", "prompts": 3},
    )
    neurons.save(folder / "n.json")
    compute_statistics(model, PROMPTS).save(folder / "s.safetensors")
    calibrate_threshold(model, PROMPTS).save(folder / "t.json")
    edit = WeightEdit({"a.weight": LowRank(torch.ones(4, 1), torch.ones(1, 4))}, "hardening")
    edit.save_tensors(folder)
    (lora,) = export_lora(model, neurons, folder / "lora", layout="diffusers")
    (kohya,) = export_lora(model, neurons, folder / "kohya", layout="kohya")
    return {
        "neurons": (folder / "n.json", NeuronFile.load, valid_neurons),
        "statistics": (folder / "s.safetensors", Statistics.load, valid_statistics),
        "threshold": (folder / "t.json", Threshold.load, valid_threshold),
        "tensors": (
            folder / edit.file_name,
            lambda path: WeightEdit.from_json(edit.to_json(), path.parent) == edit,
            valid_answer,
        ),
        "lora": (lora, carried_edit, valid_neurons),
        "verified lora": (lora, lambda path: verify(path, model), valid_verification),
        "verified kohya lora": (kohya, lambda path: verify(path, model), valid_verification),
    }


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change, cut out, double or insert some bytes, mostly near the beginning with its header."""
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        end = max(1, len(found))
        place = rng.randrange(min(end, rng.choice([8, 200, 4000, end])))
        length = rng.choice([1, 1, 2, 9, 100])
        change = rng.randrange(5)
        if change == 0:
            found[place : place + length] = rng.randbytes(length)
        elif change == 1:
            del found[place : place + length]
        elif change == 2:
            found[place:place] = found[place : place + length]
        elif change == 3:
            del found[place:]
        else:
            found[place : place + 1] = rng.choice(
                [
                    b"9" * 30,
                    b"[" * 3000,
                    b"NaN",
                    b"-1",
                    b"null",
                    b"\xff",
                    b"1e999",
                    b'"',
                    b"{",
                    b"}",
                ]
            )
    return bytes(found)


def loads_or_explains(
    path: Path, load: Callable[[Path], Any], check: Callable[[Any], None]
) -> None:
    explained = ""
    try:
        check(load(path))
    except UnmemorizeError as problem:
        explained = str(problem)
    assert not explained or path.name in explained


def damage(files: dict[str, Loaded], kind: str, tmp_path: Path, cases: int) -> None:
    original, load, check = files[kind]
    data = original.read_bytes()
    check(load(original))
    path = tmp_path / original.name
    for case in range(cases):
        path.write_bytes(mutated(data, random.Random(f"{kind} {case}")))
        try:
            loads_or_explains(path, load, check)
        except BaseException as problem:
            raise AssertionError(
                f"{kind}, case {case}: {type(problem).__name__}: {problem}"
            ) from problem


KINDS = pytest.mark.parametrize(
    "kind",
    [
        "neurons",
        "statistics",
        "threshold",
        "tensors",
        "lora",
        "verified lora",
        "verified kohya lora",
    ],
)


@KINDS
def test_damaged_files(files: dict[str, Loaded], kind: str, tmp_path: Path) -> None:
    damage(files, kind, tmp_path, 300)


@pytest.mark.slow
@KINDS
def test_many_damaged_files(files: dict[str, Loaded], kind: str, tmp_path: Path) -> None:
    damage(files, kind, tmp_path, 6000)


@pytest.mark.parametrize("kind", ["neurons", "threshold"])
def test_hostile_values_in_every_place(files: dict[str, Loaded], kind: str, tmp_path: Path) -> None:
    original, load, check = files[kind]
    content = json.loads(original.read_text())
    path = tmp_path / original.name

    def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        inner = (
            list(value.items())
            if isinstance(value, dict)
            else list(enumerate(value))[:2]
            if isinstance(value, list)
            else []
        )
        return [at, *(place for key, part in inner for place in places(part, (*at, key)))]

    for place in places(content):
        for hostile in HOSTILE:
            changed = json.loads(json.dumps(content))
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            if place:
                inner[place[-1]] = hostile
            path.write_text(json.dumps(changed if place else hostile))
            try:
                loads_or_explains(path, load, check)
            except BaseException as problem:
                raise AssertionError(
                    f"{place} = {str(hostile)[:40]!r}: {type(problem).__name__}: {problem}"
                ) from problem


def test_a_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    for length in (0, 8, 2**31, 2**62, 2**64 - 1):
        (tmp_path / "s.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}      ")
        for load in (Statistics.load, carried_edit):
            with pytest.raises(UnmemorizeError, match="safetensors"):
                load(tmp_path / "s.safetensors")


LAYER = "mid.to_v"
TWO = torch.ones(2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (TWO.float(), TWO),
        (TWO, TWO.bool()),
        (TWO.to(torch.complex64), TWO),
        (TWO.long(), TWO.long()),
        (TWO[0], TWO[0]),
        (TWO, TWO[:1]),
        (TWO[None], TWO[None]),
        (TWO, -TWO),
        (TWO.float().to(torch.float8_e4m3fn), TWO),
    ],
)
def test_statistics_that_are_no_vectors(
    mean: torch.Tensor, std: torch.Tensor, tmp_path: Path
) -> None:
    metadata = {
        "schema": "unmemorize.statistics/1",
        "count": "3",
        "fingerprint": "f",
        "prompts": "0",
    }
    save_file(
        {f"mean/{LAYER}": mean.clone(), f"std/{LAYER}": std.clone()},
        tmp_path / "s.safetensors",
        metadata,
    )
    with pytest.raises(StatisticsError, match="Make the statistics again"):
        Statistics.load(tmp_path / "s.safetensors")


@pytest.mark.parametrize("kind", ["neurons", "statistics", "threshold"])
def test_oversized_files_are_not_read(files: dict[str, Loaded], kind: str, tmp_path: Path) -> None:
    original, load, _ = files[kind]
    path = tmp_path / original.name
    with path.open("wb") as file:
        file.truncate(2**33)  # takes no space
    for large in (path, Path("/dev/zero")):
        with pytest.raises(UnmemorizeError, match="more than 256 MiB"):
            load(large)


@pytest.mark.parametrize("text", ["\ud800", "\x1b[2J", "a\x00"])
@pytest.mark.parametrize("place", ["model", "found", "neurons"])
def test_texts_that_nobody_can_write(
    files: dict[str, Loaded], place: str, text: str, tmp_path: Path
) -> None:
    content = json.loads(files["neurons"][0].read_text())
    content[place] = text if place == "model" else {text: [1]}
    (tmp_path / "n.json").write_text(json.dumps(content))
    with pytest.raises(NeuronError, match="control characters or half of a character"):
        NeuronFile.load(tmp_path / "n.json")
