"""The benchmark of full-size models measures each part, here on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import real_shapes
import real_shapes_page
import real_shapes_switching
from conftest import make_pipeline
from real_shapes_steps import Plan
from unmemorize import Model
from unmemorize.pipelines._autoencoder import decoder_bytes

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "millions", "decoder"),
    [
        ("sd", {"unet": 859.5, "vae": 83.7, "text_encoder": 123.1}, 0.5),
        # four times the pixels, and twice the bytes, since its decoder works in float32
        ("xl", {"unet": 2567.5, "vae": 83.7, "text_encoder": 123.1, "text_encoder_2": 694.7}, 4.0),
    ],
)
def test_models_have_their_published_sizes(
    name: str, millions: dict[str, float], decoder: float
) -> None:
    pipe = real_shapes.made(name, "meta", torch.float16)
    counted = {
        part: sum(weight.numel() for weight in getattr(pipe, part).parameters()) / 1e6
        for part in millions
    }
    assert counted == pytest.approx(millions, abs=0.1)
    assert pipe.unet.dtype == torch.float16
    latents = pipe.unet.config.sample_size
    fake: Any = SimpleNamespace(pipe=pipe, latent_shape=(4, latents, latents))
    assert decoder_bytes(fake) == decoder * 1024**3
    assert latents == {"sd": 64, "xl": 128}[name]


def test_each_part_is_measured_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(batches=(1, 2), dtypes=("float32",), captions=8, images=1, steps=1)
    monkeypatch.setattr(real_shapes, "made", lambda *_: make_pipeline())
    monkeypatch.setattr(real_shapes, "PLANS", {"sd": plan})
    monkeypatch.setattr(real_shapes, "COMPILED", {})
    measured, page = tmp_path / "measured.json", tmp_path / "page.md"
    real_shapes.main(["sd"], "cpu", 600.0, measured)
    real_shapes_page.main(measured, page)
    parts = json.loads(measured.read_text())["models"]["SD 1.4, 512 px"]
    assert parts["failed"] == {}
    longest = parts["steps"]["localize, no set passes"]
    shortest = parts["steps"]["localize, first set passes"]
    assert longest["candidates"] > shortest["candidates"] > 0
    assert {longest["effects"], shortest["effects"]} == {"backward"}
    assert parts["neurons off"]["hooks and weights, 10, same bits"] == "yes"
    assert parts["neurons off"]["after it, 10, same bits"] == "yes"
    assert parts["neighbours, float32"]["prediction"]["the same batch again"] == 0
    by_batch = parts["batches, float32, channels_last"].values()
    assert [len(one["seconds"]) for one in by_batch] == [3, 3]
    for shown in (capsys.readouterr().out, page.read_text()):
        assert "72 images of a certificate" in shown
        assert "off by weights" in shown
    assert "No step that was measured took more than 24 GiB." in page.read_text()
    assert "these are missing: SD 1.4, 512 px: images, localize" not in page.read_text()


def test_the_page_of_the_readings_in_the_repository_is_that_in_docs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    real_shapes_page.main(ROOT / "benchmarks/records/real-shapes.json", page)
    assert page.read_text() == (ROOT / "docs/real-shapes.md").read_text()
    assert "these are missing" not in page.read_text()


def test_the_page_names_what_the_readings_lack(tmp_path: Path) -> None:
    """Here without compiling, and without SDXL's images, batches and neurons off."""
    report = json.loads((ROOT / "benchmarks/records/real-shapes.json").read_text())
    models = {
        name: {
            part: taken
            for part, taken in parts.items()
            if not part.startswith(
                ("compiled", *["batches", "neurons off"] * (name != "SD 1.4, 512 px"))
            )
        }
        for name, parts in report["models"].items()
    }
    steps = models["SDXL, 1024 px"]["steps"]
    for name in [name for name in steps if name.startswith(("generate", "72 images", "memory of"))]:
        del steps[name]
    path, page = tmp_path / "cut.json", tmp_path / "page.md"
    path.write_text(json.dumps(report | {"models": models}))
    real_shapes_page.main(path, page)
    text = page.read_text()
    assert "SD 1.4, 512 px: torch.compile;" in text
    assert "SDXL, 1024 px: images, generate and certificate, batches, neurons off" in text
    real_shapes_page.main(empty_report(tmp_path / "empty.json"), page)
    assert "a time that was not measured on this card" in page.read_text()


def empty_report(path: Path) -> Path:
    report = {"card": "c", "torch": "t", "seconds": 0.0, "models": {"SD 1.4, 512 px": {}}}
    path.write_text(json.dumps(report))
    return path


@pytest.mark.parametrize("way", ["blocks", "whole"])
def test_compiled_denoisers_are_switched_by_hooks_and_by_weights(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_shapes_switching, "_BATCHES", (1,))
    pipe = make_pipeline()
    plain = pipe.unet
    taken: dict[str, Any] = {}
    real_shapes_switching.compiled(way, Model(pipe), taken, backend="eager")
    assert taken["hooks and weights"] == taken["after it, same bits"] == "yes"
    assert len(taken["off by weights"]["seconds"]) == len(taken["eager"]["seconds"]) == 5
    assert pipe.unet is plain
    assert all(module._compiled_call_impl is None for module in plain.modules())


def test_only_what_a_report_lacks_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What failed or was cut off is measured again, and other readings stay as they are."""
    ran: list[str] = []

    def part(name: str, *problems: Exception) -> real_shapes.Part:
        ahead = list(problems)

        def run(_model: Model, taken: dict[str, Any]) -> None:
            ran.append(name)
            taken["first"] = len(ran)
            if ahead:
                raise ahead.pop()
            taken["second"] = len(ran)

        return real_shapes.Part(name, "sd", "float32", run, "second")

    parts = [part("works"), part("fails once", RuntimeError("out of memory"))]
    monkeypatch.setattr(real_shapes, "in_order", lambda _names: parts)
    monkeypatch.setattr(real_shapes, "made", lambda *_: make_pipeline())
    path = tmp_path / "measured.json"

    def measured(seconds: float = 600.0) -> dict[str, Any]:
        real_shapes.main(["sd"], "cpu", seconds, path)
        return dict(json.loads(path.read_text())["models"]["SD 1.4, 512 px"])

    failed = {"fails once": "RuntimeError: out of memory"}
    works = {"works": {"first": 1, "second": 1}}
    assert measured() == {**works, "fails once": {"first": 2}, "failed": failed}
    assert "out of memory" in capfd.readouterr().err
    assert measured(0.0)["failed"] == failed
    assert measured() == {**works, "fails once": {"first": 3, "second": 3}, "failed": {}}
    assert ran == ["works", "fails once", "fails once"]
    measured()
    assert len(ran) == 3
    path.write_text(path.read_text().replace('"card": "cpu"', '"card": "another"'))
    assert measured()["works"] == {"first": 4, "second": 4}


def test_what_took_more_memory_is_named() -> None:
    parts = {
        "steps": {
            "detect": {"seconds": [1.0], "peak GiB": 24.5},
            "localize": {"seconds": [1.0], "peak GiB": 23.5},
            "memory of images": {"10 decoded at once": "more than the card has"},
        }
    }
    assert real_shapes_page.over(parts) == [
        "detect (24.5 GiB)",
        "10 decoded at once (more than the card has)",
    ]


def test_the_batch_that_fills_the_device() -> None:
    seconds = {1: 1.0, 2: 1.1, 4: 2.1, 8: 4.0}
    parts = {
        "batches, float16, channels_last": {
            str(size): {"seconds": [taken] * 3, "peak GiB": None} for size, taken in seconds.items()
        }
    }
    assert real_shapes_page.filling(parts) == "4 (float16, channels last)"


def test_what_takes_too_long_is_interrupted() -> None:
    def forever() -> None:
        with real_shapes_switching.within(0.0):
            while True:
                pass

    with pytest.raises(TimeoutError, match="longer than 0 s"):
        forever()
