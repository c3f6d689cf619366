"""LoRAs as options of loading: found, loaded whole, named, and loaded again elsewhere."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from artefacts import prediction
from conftest import make_pipeline
from styles import save_style
from unmemorize import Model, ModelError, load_pipeline, testbed
from unmemorize.cli._model_options import LoadingOptions
from unmemorize.detection import (
    SEED_SIMILARITY,
    Calibration,
    NoiseSettings,
    default_threshold_path,
)
from unmemorize.pipelines import Loading, Lora
from unmemorize.statistics import default_statistics_path

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in base, and LoRAs for it in one and two."""
    folder = tmp_path_factory.mktemp("loras")
    make_pipeline().save_pretrained(folder / "base")
    for seed, name in enumerate(("one", "two")):
        save_style(str(folder / "base"), folder / name, seed, text=not seed)
    return folder


def load(folder: Path, **loras: float) -> Model:
    files = {str(folder / name / "my style.safetensors"): value for name, value in loras.items()}
    return Model.load(str(folder / "base"), device="cpu", loras=files)


def test_it_is_what_diffusers_loads(folder: Path) -> None:
    model = load(folder, one=0.5, two=-1)
    digests = [
        hashlib.sha256((folder / name / "my style.safetensors").read_bytes()).hexdigest()
        for name in ("one", "two")
    ]
    assert model.loras == (
        Lora("my_style", (0.5,), digests[0]),
        Lora("my_style_2", (-1.0,), digests[1]),
    )
    assert (model.name, model.base_name) == (
        "base with my_style at 0.5 and my_style_2 at -1",
        "base",
    )
    pipe: Any = load_pipeline(str(folder / "base"), device="cpu")
    for name in ("one", "two"):
        pipe.load_lora_weights(folder / name, weight_name="my style.safetensors", adapter_name=name)
    pipe.set_adapters(["one", "two"], [0.5, -1.0])
    assert torch.equal(prediction(model), prediction(Model(pipe)))
    assert not torch.allclose(prediction(model), prediction(load(folder)), atol=1e-3)
    assert not any(module.training for module in model.pipe.unet.modules())


def test_strengths_and_files_are_told_apart(folder: Path) -> None:
    prints = {
        load(folder, **loras).fingerprint for loras in ({}, {"one": 1}, {"one": 0.5}, {"two": 1})
    }
    assert len(prints) == 4
    assert load(folder, one=0).fingerprint == load(folder).fingerprint
    assert load(folder, one=0).name == "base"


def test_other_processes_load_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    model = Model.load("base", device="cpu", loras={"one/my style.safetensors": 0.5})
    assert model.loading is not None
    travelled = pickle.loads(pickle.dumps(model.loading.for_worker(0)))
    monkeypatch.chdir(folder.parent)
    again = Model.from_loading(travelled)
    assert (again.fingerprint, again.loras) == (model.fingerprint, model.loras)
    assert again.fingerprint != load(folder).fingerprint


def test_blocks_may_have_strengths_of_their_own(folder: Path) -> None:
    model = load(folder, one=1)
    model.pipe.set_adapters(["my_style"], [{"unet": {"down": 0.5, "mid": 1.0, "up": 1.0}}])
    (lora,) = model.loras
    assert str(lora) == "my_style at 0.5 and 1"


def test_an_adapter_beside_a_fused_one_has_no_effect(folder: Path) -> None:
    """Peft ignores it, so the fingerprint does."""
    found = []
    for strength in (1, -1):
        model = load(folder, one=1, two=strength)
        loose = prediction(model)
        model.pipe.fuse_lora(components=["unet", "text_encoder"], adapter_names=["my_style"])
        fused = Model(model.pipe)
        assert [lora.name for lora in fused.loras] == ["my_style"]
        found.append((fused.fingerprint, prediction(fused)))
        assert not torch.allclose(found[-1][1], loose, atol=1e-3)
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][0] == found[1][0]


def changed(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> str:
    tensors = load_file(folder / "one" / "my style.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "changed.safetensors")
    return str(tmp_path / "changed.safetensors")


def stray(prefix: str) -> Callable[[dict[str, torch.Tensor]], object]:
    names = (f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight")
    return lambda tensors: tensors.update({name: torch.ones(2, 2) for name in names})


def only_a_blob(tensors: dict[str, torch.Tensor]) -> None:
    tensors.clear()
    tensors["blob"] = torch.ones(1)


@pytest.mark.parametrize("prefix", ["unet.foo.bar", "transformer.foo", "text_encoder_2.q_proj"])
def test_a_lora_that_would_be_loaded_in_part(prefix: str, folder: Path, tmp_path: Path) -> None:
    file = changed(folder, tmp_path, stray(prefix))
    with pytest.raises(ModelError, match=r"it changes \d+ layers, of which \d+ are there"):
        Loading(str(folder / "base"), "cpu", loras={file: 1.0}).pipeline()


def test_loras_that_cannot_be_loaded(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "wide"
    make_pipeline(block_out_channels=(16, 32)).save_pretrained(other)
    wide = str(save_style(str(other), tmp_path / "style"))
    (tmp_path / "text.safetensors").write_text("text")
    junk = changed(folder, tmp_path, only_a_blob)
    missing = "there is no such LoRA"
    wrong = "cannot be loaded into this StableDiffusionPipeline"
    cases = [
        (wide, f"{wrong}.*made for this architecture"),
        (junk, wrong),
        (str(tmp_path / "text.safetensors"), wrong),
        (str(tmp_path), missing),
        (str(tmp_path / "no.safetensors"), missing),
        ("no.safetensors", missing),
        ("loras/no.safetensors", missing),
        ("nobody/nothing", "cannot be fetched"),
        ("nobody/nothing/file.safetensors", "cannot be fetched"),
    ]
    for source, problem in cases:
        loading = Loading(str(folder / "base"), "cpu", local_files_only=True, loras={source: 1.0})
        with pytest.raises(ModelError, match=f"{source}.*{problem}"):
            loading.pipeline()
    with pytest.raises(ModelError, match="strength nan is not finite"):
        load(folder, one=float("nan"))


@pytest.mark.parametrize(
    ("loras", "problem"),
    [
        (("a=b",), "'b' is not a number. Write FILE=STRENGTH"),
        (("a=1", "a=2"), "--lora a: it is named twice"),
        (("a=",), "'' is not a number"),
    ],
)
def test_strengths_that_are_none(loras: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        LoadingOptions(lora=loras).load("testbed")


def test_a_file_may_have_an_equals_sign(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "style=2.safetensors"
    file.write_bytes((folder / "two" / "my style.safetensors").read_bytes())
    for text, strength in ((str(file), 1.0), (f"{file}=0.25", 0.25)):
        model = LoadingOptions(device="cpu", lora=(text,)).load(str(folder / "base"))
        assert [(lora.name, lora.strengths) for lora in model.loras] == [("style_2", (strength,))]


def test_files_of_the_bundled_model_are_not_those_of_it_with_a_lora(tmp_path: Path) -> None:
    style = save_style(str(testbed.path()), tmp_path)
    model = Model.load("testbed", device="cpu", loras={str(style): 1.0})
    noise = (SEED_SIMILARITY, NoiseSettings(), Calibration())
    assert default_statistics_path(model) != testbed.statistics_path()
    assert default_threshold_path(model, *noise) != testbed.threshold_path()
