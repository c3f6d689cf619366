"""The command ``harden``: what it says before the work, what it writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from architectures import make
from colours import noise
from unmemorize import (
    AuditSettings,
    HardeningSettings,
    Model,
    NeuronFile,
    Neurons,
    testbed,
    verify,
)

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="folder", scope="module")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a prompt with its image, a control, and neurons that are off."""
    folder = tmp_path_factory.mktemp("harden")
    make("Stable Diffusion").save_pretrained(folder / "model")
    (folder / "controls").mkdir()
    for name, seed in (("known.png", 1), ("controls/a.png", 2)):
        noise(seed, (32, 32)).save(folder / name)
    prompt = {"prompt": "red cat", "images": ["known.png"]}
    (folder / "prompts.jsonl").write_text(json.dumps(prompt))
    model = Model.load(str(folder / "model"), device="cpu")
    NeuronFile.of(model, Neurons({LAYER: [0, 1]})).save(folder / "neurons.json")
    return folder


def words(folder: Path, *more: object) -> list[object]:
    return [
        *("harden", folder / "neurons.json", "--prompts", folder / "prompts.jsonl"),
        *("--model", folder / "model", "--device", "cpu"),
        *("--controls", folder / "controls", "-o", folder / "run", *more),
    ]


def test_a_dry_run_counts_and_starts_nothing(cli: Cli, folder: Path) -> None:
    code, out, err = cli(*words(folder, "--dry-run", "--steps", 10, "--rounds", 3))
    assert code == 0, err
    shown = " ".join(out.replace("│", " ").split())
    assert f"attacks of the training {3 * (50 * 8 * 3 + 2 * 20)}" in shown
    assert f"training {3 * 12 * (16 * 3 + 16)}" in shown
    assert "2 images in all arms" in shown
    assert "Fewer --rounds and --training-steps take less." in shown
    assert not (folder / "run").exists()


def test_a_run_trains_judges_and_exports(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = AuditSettings(
        levels=("L4",), steps=(0, 1), starts=("other",), seeds=1, images=1, arms=("never-trained",)
    )
    of = HardeningSettings.of

    def smaller(model: Model, **options: Any) -> HardeningSettings:
        return replace(of(model, **options), kept_images=2, ordinary_images=2, audit=judged)

    monkeypatch.setattr(HardeningSettings, "of", smaller)
    asked = ("--steps", 1, "--rounds", 1, "--training-steps", 1)
    layers = ("--weights", "mid_block.attentions.*", "--rank", 1)
    code, out, err = cli(*words(folder, *asked, *layers))
    assert code == 0, err
    assert "L4 with 1 steps brings back" in out
    assert "of 2 ordinary images changed" in out
    shown = " ".join(out.split())
    assert (
        "Training saw the captions (L0) and L4 from prompt; it did not see L4 from other." in shown
    )
    assert "from 1 images that are said to be never trained on, under the same attacks in" in shown
    assert "The bound holds for one declared attempt." in shown
    assert f"edited model: {folder / 'run' / 'edited'}" in out
    assert (folder / "run" / "lora" / "pytorch_lora_weights.safetensors").exists()
    assert json.loads((folder / "run" / "hardening.json").read_text())["verdict"]["budget"] == 1
    assert verify(folder / "run" / "edited", Model.load(str(folder / "model"), device="cpu")).passed
    code, out, err = cli(
        *("audit", folder / "run", "--model", folder / "model", "--device", "cpu"),
        *("--controls", folder / "controls", "-o", folder / "audit", "--dry-run"),
    )
    assert code == 0, err


def test_the_bundled_model_is_judged_by_photographs_and_not_by_its_twins(
    cli: Cli, tmp_path: Path
) -> None:
    entry = testbed.planted()[0]
    neurons = NeuronFile.of(Model.load("testbed", device="cpu"), entry.neurons)
    neurons.save(tmp_path / "neurons.json")
    prompt = {"prompt": entry.prompt.text, "images": [str(path) for path in entry.prompt.images]}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(prompt))
    code, out, err = cli(
        *("harden", tmp_path / "neurons.json", "--prompts", tmp_path / "prompts.jsonl"),
        *("-o", tmp_path / "run", "--dry-run"),
    )
    assert code == 0, err
    photographs = len(testbed.unused())
    assert photographs >= 19
    assert f"{1 + photographs} images in all arms" in out


def test_weights_that_are_not_there_are_refused(cli: Cli, folder: Path) -> None:
    code, _, err = cli(*words(folder, "--weights", "nothing.*", "--new-run"))
    assert code == 1
    assert "has no layer of such a path" in err
