from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from unmemorize import BundledDescriptor, GenerationSettings, MetricError, Prompt, Run, RunError
from unmemorize.generation import ImageSet, NeuronSet, generate_all, image_sets
from unmemorize.metrics import evaluate_all, quality_all
from unmemorize.report import read_results, summary_table

FEW = GenerationSettings(images=2, steps=2, guidance=2.0)


class Colours:
    """A descriptor and extractor that anyone can compute: mean colour."""

    name, digest = "inception-colours", "c" * 64
    kind: Literal["FID", "CLIP-FID"] = "FID"

    def features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        pixels = [image.convert("RGB").resize((1, 1), Image.Resampling.BOX) for image in images]
        rows = [torch.from_numpy(np.asarray(pixel)).reshape(3) for pixel in pixels]
        return torch.stack(rows).float() + 1

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.nn.functional.normalize(self.features(images), dim=1)


def make(run: Run, planted: DiffusionPipeline, *names: str, **options: Any) -> None:
    for name in names:
        generate_all(run, planted, ImageSet(neurons=NeuronSet.parse(name), **options), FEW)


def measure(run: Run, name: str) -> dict[int, dict[str, Any]]:
    return evaluate_all(run, name, descriptor=Colours(), alignment=None)


def test_metrics_resume_and_agree(run: Run, planted: DiffusionPipeline) -> None:
    make(run, planted, "original", "refined")
    first = {name: measure(run, name) for name in image_sets(run)}
    assert first["original"][1]["sscd_gen"] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert len(first["refined"][1]["sscd_orig"]) == 2
    assert first["refined"][1]["references"] == {"used": 1, "missing": (), "unreadable": ()}
    assert {"alignment", "masked"}.isdisjoint(first["refined"][1])
    again = {name: measure(run, name) for name in image_sets(run)}
    assert [record[1]["sscd_orig"] for record in again.values()] == [
        record[1]["sscd_orig"] for record in first.values()
    ]
    other = evaluate_all(run, "refined", descriptor=BundledDescriptor(), alignment=None)
    assert other[1]["sscd_orig"] != first["refined"][1]["sscd_orig"]
    assert Run.load(run.folder / "metrics" / "refined").config["descriptor"] == "unmemorize-copy-64"


def test_missing_pieces_are_named(
    run: Run, planted: DiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RunError, match="no images refined"):
        measure(run, "refined")
    make(run, planted, "refined")
    assert "sscd_gen" not in measure(run, "refined")[1]
    assert "no original images of the same prompts" in caplog.text
    make(run, planted, "original")
    assert "sscd_gen" in measure(run, "original")[1]
    (run.folder / "images" / "refined" / "00001_00.png").write_text("no image")
    with pytest.raises(MetricError, match=r"00001_00\.png: not readable"):
        measure(run, "refined")


def test_training_images_that_are_gone_are_counted_and_named(
    run: Run, planted: DiffusionPipeline, tmp_path: Path
) -> None:
    make(run, planted, "original")
    (tmp_path / "broken.png").write_text("no image")
    paths = [tmp_path / name for name in ("reference.png", "broken.png", "gone.png")]
    found = evaluate_all(
        run, "original", descriptor=Colours(), alignment=None, references={1: paths}
    )
    told = {"used": 1, "missing": ("gone.png",), "unreadable": ("broken.png",)}
    assert found[1]["references"] == {**told, "paths": list(map(str, paths))}
    assert len(found[1]["sscd_orig"]) == 2
    results = read_results(run)
    assert (results.lacking("missing"), results.lacking("unreadable")) == (
        ["gone.png"],
        ["broken.png"],
    )
    notes = summary_table(results).notes
    assert any("missing: 1 (gone.png)" in note for note in notes)
    assert any("unreadable: 1 (broken.png)" in note for note in notes)


def test_a_training_image_that_comes_later_is_compared_with(
    run: Run, planted: DiffusionPipeline, tmp_path: Path
) -> None:
    make(run, planted, "original")
    late = {1: [tmp_path / "late.png"]}
    assert (
        "sscd_orig"
        not in evaluate_all(run, "original", descriptor=Colours(), alignment=None, references=late)[
            1
        ]
    )
    Image.new("RGB", (9, 9), (3, 90, 200)).save(tmp_path / "late.png")
    assert (
        "sscd_orig"
        in evaluate_all(run, "original", descriptor=Colours(), alignment=None, references=late)[1]
    )
    results = read_results(run)
    assert (results.lacking("missing"), results.lacking("unreadable")) == ([], [])


def test_without_any_training_image_there_is_no_copy_score(
    run: Run, planted: DiffusionPipeline, tmp_path: Path
) -> None:
    make(run, planted, "original")
    found = evaluate_all(
        run,
        "original",
        descriptor=Colours(),
        alignment=None,
        references={1: [tmp_path / "gone.png"]},
    )
    assert "sscd_orig" not in found[1]


def test_images_of_other_seeds_are_not_compared(run: Run, planted: DiffusionPipeline) -> None:
    make(run, planted, "original")
    generate_all(
        run, planted, ImageSet(neurons=NeuronSet.parse("refined")), replace(FEW, seed=5, scale=0.5)
    )
    with pytest.raises(RunError, match="made with seed = 5, the original images with 2"):
        measure(run, "refined-scale-0.5")


def test_other_prompts_have_a_column_of_their_own_with_the_quality(
    run: Run, planted: DiffusionPipeline, tmp_path: Path
) -> None:
    others: dict[str, Any] = {"prompts": [Prompt("a cat"), Prompt("a dog")], "label": "animals"}
    make(run, planted, "original", "refined", **others)
    make(run, planted, "original")
    real = tmp_path / "real"
    real.mkdir()
    for shade in (0, 90, 200):
        Image.new("RGB", (30, 20), (shade, 30, 90)).save(real / f"{shade}.png")
    seen: list[tuple[int, int | None]] = []
    for _ in range(2):
        quality_all(
            run,
            ["original-on-animals", "refined-on-animals"],
            real,
            Colours(),
            progress=lambda *at: seen.append(at),
        )
    assert seen[-1] == (11, 11)
    for name in ("original-on-animals", "refined-on-animals"):
        measure(run, name)
    assert len(run.records("quality")) == 2
    table = summary_table(read_results(run))
    assert table.columns[-1] == "animals"
    rows = {row.label: row for row in table.rows}
    assert rows["same as before, neurons off"].cells[-1].count == 2
    assert rows["FID to real, neurons off"].cells[-1].count == 4
    assert rows["FID to real, neurons off"].by == "inception-colours (sha256 cccccccccccc)"
    assert not any(cell.figure for cell in rows["FID to real, before"].cells[:-1])


def test_template_prompts_get_a_masked_score(
    run: Run, planted: DiffusionPipeline, tmp_path: Path
) -> None:
    make(run, planted, "original")
    lines = (run.folder / "prompts.jsonl").read_text().replace('"VM"', '"TM"')
    run.write("prompts.jsonl", lines)
    for number, shade in enumerate((40, 200)):
        image = Image.new("RGB", (20, 20), (30, 90, 160))
        image.paste((90, 20, 20), (0, 0, 10, 20))
        image.paste((shade, 10, 10), (12, 0, 20, 8))
        image.save(tmp_path / f"{number}.png")
    found = evaluate_all(
        run,
        "original",
        descriptor=Colours(),
        alignment=None,
        references={1: [tmp_path / "0.png", tmp_path / "1.png"]},
    )
    assert len(found[1]["masked"]) == 2
    assert all(-1 <= score <= 1 for score in found[1]["masked"])
