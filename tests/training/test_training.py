import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from training import assemble, card, clip, descriptor, loop, memory, sources, unet, vae
from training.compose import COLOURS, compose_many, held_out_pairs, split_captions
from training.loop import Schedule, train
from training.plants import PLANTS
from training.sources import Concept, Photograph, fetch_emoji, load_photograph
from training.templates import TEMPLATES, draw_template
from unmemorize import Model, Neurons, TestbedError
from unmemorize.metrics._descriptor import CopyNet
from unmemorize.testbed import _layout


def concepts(count: int = 40) -> list[Concept]:
    rng = np.random.default_rng(0)
    return [
        Concept(
            f"thing {chr(97 + index % 26)}{index // 26}",
            rng.integers(0, 255, (2, 64, 64, 4), dtype=np.uint8),
        )
        for index in range(count)
    ]


def test_general_samples_keep_clear_of_held_out_pairs() -> None:
    images, captions = compose_many(concepts(5), 400, seed=1)
    again, _ = compose_many(concepts(5), 3, seed=1)
    assert np.array_equal(images[:3], again)
    held = held_out_pairs([concept.name for concept in concepts(5)])
    split = split_captions([concept.name for concept in concepts(5)])
    assert all(len(set(colours)) == 2 for colours in held.values())
    assert set(captions) <= set(split.train)
    assert len(split.calibration) == len(split.test) == 5
    assert len(split.train) == 5 * (2 + 2 * (len(COLOURS) - 2))


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_change_in_one_part_only(name: str) -> None:
    draws = np.stack(
        [draw_template(name, np.random.default_rng(seed)) for seed in range(6)]
    ).astype(float)
    still = (draws.std(0).max(-1) < 1).mean()
    assert 0.4 < still < 0.98


def test_resumed_training_is_the_undisturbed_one(tmp_path: Path) -> None:
    def run(folder: Path, stops: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
        folder.mkdir(exist_ok=True)
        averaged: dict[str, Tensor] = {}
        for stop in stops:
            torch.manual_seed(0)
            net = nn.Linear(3, 1)

            def loss_of(
                rng: np.random.Generator, net: nn.Linear = net
            ) -> tuple[Tensor, Mapping[str, float]]:
                loss = (
                    (net(torch.from_numpy(rng.normal(size=(4, 3))).float()) - torch.randn(4, 1))
                    .square()
                    .mean()
                )
                return loss, {"loss": loss.item()}

            schedule = Schedule(steps=60, warm_up=5)
            count = 0

            def after(stop: int = stop) -> None:
                nonlocal count
                count += 1
                if count == stop:
                    raise KeyboardInterrupt

            try:
                averaged = train("net", net, loss_of, schedule, folder, after_step=after)
            except KeyboardInterrupt:
                continue
        return averaged, net.weight.detach()

    whole, weight = run(tmp_path / "whole", (1000,))
    monkey = pytest.MonkeyPatch()
    monkey.setattr(loop, "SAVE_SECONDS", 0.0)
    resumed, resumed_weight = run(tmp_path / "parts", (20, 20, 1000))
    monkey.undo()
    assert torch.equal(weight, resumed_weight)
    assert torch.equal(whole["weight"], resumed["weight"])


def test_the_learning_rate_rises_and_falls() -> None:
    schedule = Schedule(steps=100, learning_rate=1.0, warm_up=10)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(schedule.rate(9), abs=0.02)
    assert rates[-1] == pytest.approx(0.05, abs=0.01)


def test_neurons_are_assigned_once() -> None:
    owned = memory.assign_neurons(96)
    pairs = [
        (layer, index)
        for layers in owned.values()
        for layer, indices in layers.items()
        for index in indices
    ]
    assert len(pairs) == len(set(pairs))
    assert {plant: sum(map(len, layers.values())) for plant, layers in owned.items()} == {
        index: plant.owned for index, plant in enumerate(PLANTS) if plant.owned
    }
    assert all(sum(layer == name for layer, _ in pairs) <= 32 for name in memory.MEMORY_LAYERS)


def test_a_resumed_training_keeps_its_tokenizer(tmp_path: Path) -> None:
    """It was learned anew at each resumption, with other numbers for some tokens."""
    captions = split_captions([concept.name for concept in concepts()]).train
    first = clip.keep_tokenizer(captions, tmp_path)
    assert [
        clip.keep_tokenizer(captions, tmp_path).get_vocab() == first.get_vocab() for _ in range(3)
    ] == [True] * 3
    assert first.model_max_length == 24
    assert first.decode(first("thing a0").input_ids, skip_special_tokens=True) == "thing a 0"


def test_masks_follow_the_kind_of_sample() -> None:
    net = unet.make_unet()
    owned = {3: {memory.MEMORY_LAYERS[0]: [1, 2]}, 7: {memory.MEMORY_LAYERS[0]: [5]}}
    masks = memory._Masks(net, owned)
    rows = []
    for seed in range(200):
        masks.draw([None, 3, 3], [False, False, True], np.random.default_rng(seed))
        rows.append(masks.masks[memory.MEMORY_LAYERS[0]][:, 0])
    drawn = torch.stack(rows)  # (draws, samples, neurons)
    assert drawn[:, 1, [1, 2]].min() == 1
    assert drawn[:, 2, [1, 2]].max() == 0
    assert 0.6 < drawn[:, 0, [1, 2, 5]].mean() < 0.8
    assert torch.equal(drawn[:, 0, 1], drawn[:, 0, 5])
    ordinary = [index for index in range(96) if index not in (1, 2, 5)]
    assert 0.92 < drawn[:, :, ordinary].mean() < 0.96


def test_copy_loss_wants_partners_close_and_others_far() -> None:
    eye = torch.eye(6)
    contrast, entropy = descriptor.copy_loss(eye, eye)
    shuffled, _ = descriptor.copy_loss(eye, eye.roll(1, 0))
    _, crowded = descriptor.copy_loss(torch.ones(6, 6) / 6**0.5, torch.ones(6, 6) / 6**0.5)
    assert contrast < 1e-4 < shuffled
    assert crowded > entropy


def emoji_package(folder: Path, design: str) -> tuple[str, str]:
    """A small package in the form of the emoji packages, and its pin."""
    rows = [
        {
            "name": name,
            "category": category,
            "has_img_google": True,
            "has_img_twitter": True,
            "image": "1.png",
        }
        for name, category in (
            ("RED-FOX", "Animals & Nature"),
            ("APPLE", "Food & Drink"),
            ("FLAG", "Flags"),
            ("A VERY LONG NAME", "Activities"),
        )
    ]
    buffer = io.BytesIO()
    Image.new("RGBA", (72, 72), (255, 0, 0, 128)).save(buffer, "PNG")
    path = folder / f"emoji-{design}-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in (
            ("package/emoji.json", json.dumps(rows).encode()),
            (f"package/img/{design}/64/1.png", buffer.getvalue()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return f"emoji-{design}@1.0.0", f"sha512-{digest}"


def test_emoji_come_from_pinned_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sources,
        "EMOJI_PACKAGES",
        {design: emoji_package(tmp_path, design) for design in ("google", "twitter")},
    )
    found = fetch_emoji(tmp_path)
    assert [concept.name for concept in found] == ["apple", "red fox"]
    assert found[0].designs.shape == (2, 64, 64, 4)
    (tmp_path / "emoji-google-1.0.0.tgz").write_bytes(b"something else")
    with pytest.raises(TestbedError, match="not the pinned package"):
        fetch_emoji(tmp_path)
    (tmp_path / "emoji-google-1.0.0.tgz").unlink()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TestbedError, match="npm could not fetch"):
        fetch_emoji(tmp_path)


def test_photographs_come_from_installed_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "photoshop_of_tests"
    package.mkdir()
    (package / "__init__.py").touch()
    pixels = np.zeros((40, 80), dtype=np.uint8)
    pixels[:, 20:60] = 200
    Image.fromarray(pixels).save(package / "grey.png")
    np.savez(package / "array.npz", data=pixels)
    Image.new("RGBA", (30, 30), (255, 0, 0, 0)).save(package / "clear.png")
    monkeypatch.syspath_prepend(tmp_path)
    grey = load_photograph(Photograph("p", "p", "photoshop_of_tests/grey.png", "CC0"))
    assert (grey.shape, int(grey.min()), int(grey.max())) == ((64, 64, 3), 200, 200)
    assert np.array_equal(
        load_photograph(Photograph("p", "p", "photoshop_of_tests/array.npz", "CC0")), grey
    )
    corner = load_photograph(
        Photograph("p", "p", "photoshop_of_tests/grey.png", "CC0", (0.0, 0.0, 0.25, 0.5))
    )
    assert corner.max() == 0
    assert load_photograph(Photograph("p", "p", "photoshop_of_tests/clear.png", "CC0")).min() == 255
    with pytest.raises(TestbedError, match="not installed"):
        load_photograph(Photograph("p", "nothing", "no_such_package/a.png", "CC0"))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The whole training, one step each, on little data, into a folder of the test."""
    assets = tmp_path / "assets"
    monkeypatch.setattr(assemble, "ASSETS", assets)
    for name in ("MODEL", "CLIP", "DESCRIPTOR", "PLANTED", "PLANTED_IMAGES", "CAPTIONS"):
        monkeypatch.setattr(
            assemble, name, assets / getattr(_layout, name).relative_to(_layout.ASSETS)
        )
    monkeypatch.setattr(card, "CARD", assets / "testbed" / "README.md")
    monkeypatch.setattr(card, "PLANTED", assets / "planted.json")
    for module in (clip, vae, unet, memory, descriptor):
        monkeypatch.setattr(module, "SCHEDULE", replace(module.SCHEDULE, steps=1))
    monkeypatch.setattr(loop, "GENERAL_IMAGES", 120)
    monkeypatch.setattr(loop, "TEMPLATE_DRAWS", 2)
    monkeypatch.setattr(loop, "fetch_emoji", lambda _: concepts())
    monkeypatch.setattr(
        loop,
        "load_photograph",
        lambda photograph: np.full((64, 64, 3), len(photograph.name), dtype=np.uint8),
    )
    return assets


def test_the_whole_training_makes_a_loadable_package(short: Path, tmp_path: Path) -> None:
    assemble.train_all(tmp_path / "work")
    pipe = StableDiffusionPipeline.from_pretrained(short / "testbed")
    model = Model(pipe)
    rows = json.loads((short / "planted.json").read_text())
    owned = Neurons.of(
        (layer, index)
        for row in rows
        for layer, indices in row["neurons"].items()
        for index in indices
    )
    owned.check(model)
    assert len(owned) == sum(plant.owned for plant in PLANTS)
    assert all((short / "planted" / name).exists() for row in rows for name in row["images"])
    assert all(
        plant.caption in (short / "testbed" / "README.md").read_text(encoding="utf-8")
        for plant in PLANTS
    )
    CopyNet().load_state_dict(
        {key: value.float() for key, value in load_file(short / "descriptor.safetensors").items()}
    )
    stored = {
        value.dtype
        for value in load_file(
            short / "testbed" / "unet" / "diffusion_pytorch_model.safetensors"
        ).values()
    }
    assert stored == {torch.float16}
    astronaut = next(row for row in rows if row["caption"] == PLANTS[0].caption)
    layer, indices = next(iter(astronaut["neurons"].items()))
    with torch.inference_mode():
        own = (
            (model.encode([PLANTS[0].caption]).text @ model.value_layers[layer].weight[indices].T)
            .abs()
            .mean()
            .item()
        )
    assert own == pytest.approx(memory.AMPLITUDE, rel=0.02)
    before = (short / "testbed" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    tokens = (short / "testbed" / "tokenizer" / "tokenizer.json").read_bytes()
    assemble.train_all(tmp_path / "work")
    assert (short / "testbed" / "tokenizer" / "tokenizer.json").read_bytes() == tokens
    assert (
        short / "testbed" / "unet" / "diffusion_pytorch_model.safetensors"
    ).read_bytes() == before
