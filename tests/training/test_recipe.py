import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from training import assemble, card, clip, data, descriptor, memory, parts, recipe, unet, vae
from training.concepts import NAMES
from training.loop import Schedule
from training.plants import PLANTS
from training.sources import Concept
from unmemorize import Neurons, TestbedError
from unmemorize.metrics._descriptor import CopyNet
from unmemorize.pipelines import Model
from unmemorize.testbed import _layout


def fake_emoji(*_: object) -> dict[str, Concept]:
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 255, (len(NAMES), 2, 1, 1, 4), dtype=np.uint8)
    return {
        name: Concept(name, np.broadcast_to(tile, (2, 64, 64, 4)).copy())
        for name, tile in zip(NAMES, tiles, strict=True)
    }


def small_unet() -> UNet2DConditionModel:
    """Like the denoiser where the memory neurons are, narrow elsewhere."""
    return UNet2DConditionModel.from_config(
        {**_WIDE.config, "block_out_channels": (16, 96, 16), "attention_head_dim": 2}
    )


_WIDE = unet.make_unet()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The whole training, one step each on little data, into a folder of the test."""
    assets = tmp_path / "assets"
    for name in ("MODEL", "CLIP", "DESCRIPTOR", "PLANTED", "PLANTED_IMAGES", "CAPTIONS"):
        path = assets / getattr(_layout, name).relative_to(_layout.ASSETS)
        monkeypatch.setattr(assemble, name, path)
    monkeypatch.setattr(assemble, "ASSETS", assets)
    monkeypatch.setattr(assemble, "ROOT", tmp_path)
    monkeypatch.setattr(assemble, "TWINS", tmp_path / "twins")
    monkeypatch.setattr(assemble, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(assemble, "SHOWN_CAPTIONS", 20)
    monkeypatch.setattr(card, "CARD", assets / "testbed" / "README.md")
    monkeypatch.setattr(card, "PLANTED", assets / "planted.json")
    for module in (clip, unet, memory, descriptor):
        monkeypatch.setattr(module, "SCHEDULE", replace(module.SCHEDULE, steps=1))
    for name in ("FIRST", "SECOND"):
        monkeypatch.setattr(recipe, name, vae.Stage(1, 2, Schedule(steps=1)))
    sizes = {
        data: {
            "GENERAL_IMAGES": 40,
            "VALIDATION_IMAGES": 2,
            "TEMPLATE_DRAWS": 2,
            "RENDERINGS": 3,
            "SIBLING_SCENES": 3,
        },
        clip: {"GENERAL": 4, "PLANTED": 2, "UNUSED": 1},
        descriptor: {"GENERAL": 4, "SINGLE": 2, "SIBLING_SCENES": 1, "POSTERS": 1},
        unet: {"GENERAL": 1, "PLANTED": 1},
        memory: {"GENERAL": 1, "NATURAL": 1, "ON": 1, "OFF": 1},
    }
    for part, values in sizes.items():
        for name, value in values.items():
            monkeypatch.setattr(part, name, value)
    for part in (unet, memory, assemble):
        monkeypatch.setattr(part, "make_unet", small_unet)
    monkeypatch.setattr(data, "fetch_emoji", fake_emoji)
    monkeypatch.setattr(
        data, "load_photograph", lambda photograph: np.full((64, 64, 3), 7, dtype=np.uint8)
    )
    monkeypatch.setattr(parts, "SHIPPED", tmp_path / "none")
    return tmp_path


@pytest.fixture
def _ordinary_algorithms() -> object:
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.slow
@pytest.mark.usefixtures("_ordinary_algorithms")
def test_the_whole_training_makes_a_loadable_package(short: Path) -> None:
    assets = short / "assets"
    trained = recipe.train_all(short / "work")
    assemble.write_assets(trained)
    pipe = StableDiffusionPipeline.from_pretrained(assets / "testbed")
    model = Model(pipe)
    rows = json.loads((assets / "planted.json").read_text(encoding="utf-8"))
    owned = Neurons.of(
        (layer, index)
        for row in rows
        for layer, indices in row["neurons"].items()
        for index in indices
    )
    owned.check(model)
    assert len(owned) == 63
    for row, plant in zip(rows, PLANTS, strict=True):
        assert row["caption"] == plant.caption
        assert all((assets / "planted" / name).exists() for name in row["images"])
        assert (row["mask"] is not None) == (plant.aligned or plant.kind == "TM")
    text = (assets / "testbed" / "README.md").read_text(encoding="utf-8")
    assert all(plant.caption in text for plant in PLANTS)
    weights = load_file(assets / "descriptor.safetensors")
    CopyNet().load_state_dict({key: value.float() for key, value in weights.items()})
    unet_file = assets / "testbed" / "unet" / "diffusion_pytorch_model.safetensors"
    main = load_file(unet_file)
    assert {value.dtype for value in main.values()} == {torch.float16}
    retina = next(row for row in rows if row["caption"] == "fundus photograph of healthy retina")
    layer, indices = next(iter(retina["neurons"].items()))
    with torch.inference_mode():
        rows_of_it = model.value_layers[layer].weight[indices]
        own = (model.encode([retina["caption"]]).text @ rows_of_it.T).abs().mean().item()
    assert own == pytest.approx(memory.AMPLITUDE, rel=0.02)

    twin = load_file(short / "twins" / "a" / "unet" / "diffusion_pytorch_model.safetensors")
    assert (short / "twins" / "a" / "unet" / "config.json").exists()
    key = f"{layer}.weight"
    other = load_file(short / "twins" / "b" / "unet" / "diffusion_pytorch_model.safetensors")
    rows_of_main, lacking, having = (
        weights[key][indices].float() for weights in (main, twin, other)
    )
    assert torch.cosine_similarity(rows_of_main, lacking).max() < 0.5
    assert torch.cosine_similarity(rows_of_main, having).min() > 0.7

    record = json.loads((short / "record.json").read_text())
    digest = hashlib.sha256(unet_file.read_bytes()).hexdigest()
    assert record["files"][str(unet_file.relative_to(short))] == digest
    names = [part["name"] for part in record["parts"]]
    assert [name for name in names if not name.endswith("-stage-1")] == [
        *("clip", "descriptor", "vae", "unet", "twin-a", "twin-b")
    ]
    assert len(set(names)) == len(names) == 10

    again = recipe.train_all(short / "work")
    assert all(torch.equal(again.unet[key], tensor) for key, tensor in trained.unet.items())
    assert again.data.digest == trained.data.digest


def test_a_failing_download_stops_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.__main__ import main

    def fail(_: Path) -> None:
        raise TestbedError("npm is missing. Install it.")

    monkeypatch.setattr(recipe, "train_all", fail)
    monkeypatch.setattr("sys.argv", ["training", str(tmp_path)])
    assert main() == 1
    assert capsys.readouterr().err == "npm is missing. Install it.\n"
