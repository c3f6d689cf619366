from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from colours import Colours, cosines
from conftest import PLANTED_PROMPT, planted_pipeline
from unmemorize import (
    BundledDescriptor,
    ClipAlignment,
    GenerationSettings,
    MetricError,
    Model,
    Prompt,
    Run,
    RunError,
)
from unmemorize.generation import ImageSet, ImageSetRun, NeuronSet, generate_all
from unmemorize.metrics import (
    METRICS,
    EvaluationRun,
    Instrument,
    PromptImages,
    PromptMetrics,
    References,
    evaluate_all,
    quality_all,
    read_metrics,
)
from unmemorize.metrics import _evaluation as evaluation
from unmemorize.report import read_results, summary_table
from unmemorize.runs import StoredImage

FEW = GenerationSettings(images=3, steps=2, guidance=3.0)
WEAK = "refined-scale-0.5"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(planted_pipeline())


def generate(run: Run, model: Model, name: str, **options: Any) -> None:
    settings = replace(FEW, scale=options.pop("scale", 0.0), seed=options.pop("seed", 2))
    generate_all(run, model, ImageSet(neurons=NeuronSet.parse(name), **options), settings)


@pytest.fixture(scope="module")
def generated(
    localized: Path, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run with original images and with weakened neurons, and a training image, unchanged."""
    folder = tmp_path_factory.mktemp("generated")
    shutil.copytree(localized, folder / "run")
    run = Run.load(folder / "run")
    generate(run, model, "original")
    generate(run, model, "refined", scale=0.5)
    return run.folder, localized.parent / "reference.png"


@pytest.fixture
def run(generated: tuple[Path, Path], tmp_path: Path) -> Run:
    """A copy of the generated run."""
    shutil.copytree(generated[0], tmp_path / "run")
    return Run.load(tmp_path / "run")


def measure(
    run: Run, name: str, references: Mapping[int, Sequence[Path]] | None = None, **options: Any
) -> dict[int, PromptMetrics]:
    arguments = {"descriptor": Colours(), "alignment": None} | options
    return evaluate_all(run, name, references=references, **arguments)


def images_in(folder: Path) -> list[Image.Image]:
    images = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    return images


def test_values_are_those_of_the_files(run: Run, generated: tuple[Path, Path]) -> None:
    (record,) = measure(run, WEAK).values()
    after, before = (images_in(run.folder / "images" / name) for name in (WEAK, "original"))
    with Image.open(generated[1]) as training:
        copies = cosines(after, [training])[:, 0]
    products = cosines(after, after)
    assert len(after) == 3
    assert record.values["sscd-orig"] == pytest.approx(tuple(copies), abs=1e-6)
    assert record.values["sscd-gen"] == pytest.approx(
        tuple(np.diagonal(cosines(after, before))), abs=1e-6
    )
    assert record.values["d-sscd"] == pytest.approx(
        np.median([products[0, 1], products[0, 2], products[1, 2]]), abs=1e-6
    )
    assert record.references == References(used=1)
    assert {"a-clip", "masked-copy"}.isdisjoint(record.values)


def test_medians_of_the_published_code(run: Run) -> None:
    four = replace(PromptMetrics(values={"x": (4.0, 1.0, 2.0, 3.0)}), medians="lower")
    assert four.median("x") == 2.0
    (middle,) = measure(run, WEAK).values()
    assert read_results(run).medians == "middle"
    (lower,) = measure(run, WEAK, medians="lower").values()
    assert (middle.medians, lower.medians) == ("middle", "lower")
    assert lower.values == middle.values  # of three images, which have three pairs
    assert Run.load(run.folder / "metrics" / WEAK).settings(EvaluationRun).medians == "lower"
    assert read_results(run).medians == "lower"
    assert any("lower one of the two" in note for note in summary_table(read_results(run)).notes)
    measure(run, "original")
    assert read_results(run).medians == "middle"  # not all sets have lower ones


def test_the_new_metric_is_in_records_and_summaries(run: Run) -> None:
    """It was added as one file and its registration."""
    (record,) = measure(run, WEAK).values()
    assert len(record.seeds("pixel-correlation")) == 3
    rows = {row.label: row for row in summary_table(read_results(run)).rows}
    row = rows[f"pixel correlation, {WEAK}"]
    assert row.cells[0].value == pytest.approx(np.median(record.seeds("pixel-correlation")))
    assert row.by == "correlation of pixels, the mean of each channel removed"


def test_original_images_are_the_same_as_before(run: Run) -> None:
    (record,) = measure(run, "original").values()
    assert record.values["sscd-gen"] == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)


def test_guarded_images_are_compared_with_those_drawn_without_the_guard(
    run: Run, model: Model
) -> None:
    generate(run, model, "original", guard={"tau": 1.0})
    (record,) = measure(run, "original-guarded").values()
    assert record.values["sscd-gen"] == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)


def test_the_run_says_what_measured_what(run: Run) -> None:
    clip = ClipAlignment()
    (record,) = measure(run, WEAK, alignment=clip).values()
    after = images_in(run.folder / "images" / WEAK)
    assert record.values["a-clip"] == pytest.approx(tuple(clip(after, PLANTED_PROMPT).tolist()))
    settings = Run.load(run.folder / "metrics" / WEAK).settings(EvaluationRun)
    assert tuple(metric.name for metric in settings.metrics) == METRICS.names()
    measured_by = {metric.name: metric.measured_by for metric in settings.metrics}
    assert measured_by["sscd-orig"] == Instrument("inception-colours", "c" * 64)
    assert measured_by["a-clip"] == Instrument(clip.name, clip.digest)
    sets = {
        name: Run.load(run.folder / "images" / name).settings(ImageSetRun)
        for name in (WEAK, "original")
    }
    assert (settings.images, settings.original) == (sets[WEAK], sets["original"])


def test_what_is_measured_is_not_measured_again(run: Run) -> None:
    first, again = Colours(), Colours()
    steps: list[tuple[int, int | None]] = []
    records = measure(run, WEAK, descriptor=first, progress=lambda *at: steps.append(at))
    assert (first.calls, steps) == (3, [(0, 1), (1, 1)])
    steps.clear()
    assert measure(run, WEAK, descriptor=again, progress=lambda *at: steps.append(at)) == records
    assert (again.calls, steps) == (0, [(1, 1)])
    assert read_metrics(Run.load(run.folder / "metrics" / WEAK)) == records


def test_another_instrument_measures_again(run: Run) -> None:
    by_colours = measure(run, WEAK)[1]
    by_network = measure(run, WEAK, descriptor=BundledDescriptor())[1]
    assert by_network.values["sscd-orig"] != by_colours.values["sscd-orig"]
    assert by_network.values["pixel-correlation"] == by_colours.values["pixel-correlation"]
    settings = Run.load(run.folder / "metrics" / WEAK).settings(EvaluationRun)
    assert settings.metrics[0].measured_by.name == "unmemorize-copy-64"


def test_an_interrupted_evaluation_is_resumed(run: Run, model: Model) -> None:
    others = [Prompt(f"number {word}") for word in ("one", "two", "three")]
    generate(run, model, "original", prompts=others, label="numbers")
    name = "original-on-numbers"
    broken = run.folder / "images" / name / "00001_02.png"
    content = broken.read_bytes()
    broken.write_text("no image")
    with pytest.raises(MetricError, match=r"00001_02\.png: not readable"):
        measure(run, name)
    kept = read_metrics(Run.load(run.folder / "metrics" / name))
    assert list(kept) == [0]
    broken.write_bytes(content)
    descriptor = Colours()
    records = measure(run, name, descriptor=descriptor)
    assert list(records) == [0, 1, 2]
    assert records[0] == kept[0]
    assert descriptor.calls == 2 * 2  # generated and original images of two prompts


def test_a_folder_that_a_killed_evaluation_left_is_used(run: Run) -> None:
    folder = run.folder / "metrics" / WEAK
    folder.mkdir(parents=True)
    (folder / ".manifest.json.abc").write_text("{")
    assert list(measure(run, WEAK)) == [1]


def test_missing_images_are_named(run: Run) -> None:
    with pytest.raises(RunError, match=r"no images refined\. First: unmemorize generate"):
        measure(run, "refined")


def test_without_original_images_nothing_tells_what_changes(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(run.folder / "images" / "original")
    assert "sscd-gen" not in measure(run, WEAK)[1].values
    assert f"it cannot be measured how much {WEAK} changes" in caplog.text


def test_original_images_that_come_later_are_compared_with(run: Run, model: Model) -> None:
    shutil.rmtree(run.folder / "images" / "original")
    assert "sscd-gen" not in measure(run, WEAK)[1].values
    generate(run, model, "original")
    assert "sscd-gen" in measure(run, WEAK)[1].values


def test_prompts_whose_original_images_come_later_are_measured_again(
    run: Run, model: Model
) -> None:
    """The others keep what was measured."""
    others = [Prompt("number one"), Prompt("number two")]
    for name in ("original", "refined"):
        generate(run, model, name, prompts=others, label="numbers")
    (lines,) = (run.folder / "images" / "original-on-numbers").glob("images*.jsonl")
    whole = lines.read_text()
    lines.write_text(whole.splitlines(keepends=True)[0])
    early = measure(run, "refined-on-numbers")
    assert ["sscd-gen" in early[index].values for index in (0, 1)] == [True, False]
    lines.write_text(whole)
    descriptor = Colours()
    late = measure(run, "refined-on-numbers", descriptor=descriptor)
    assert descriptor.calls == 2  # generated and original images of one prompt
    assert late[0] == early[0]
    assert "sscd-gen" in late[1].values
    assert late[1].originals == ("00001_00.png", "00001_01.png", "00001_02.png")
    assert measure(run, "refined-on-numbers") == late


def test_images_of_other_seeds_are_not_compared(run: Run, model: Model) -> None:
    generate(run, model, "refined", seed=5)
    with pytest.raises(RunError, match="made with seed = 5, the original images with 2"):
        measure(run, "refined")


def test_training_images_that_are_gone_are_counted_and_named(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (30, 200, 30)).save(tmp_path / "other.png")
    (tmp_path / "broken.png").write_text("no image")
    paths = [tmp_path / name for name in ("other.png", "broken.png", "gone.png")]
    (record,) = measure(run, "original", {1: paths}).values()
    assert record.references == References(
        used=1,
        missing=("gone.png",),
        unreadable=("broken.png",),
        files=tuple(StoredImage.of(path, run.folder) for path in paths),
    )
    assert len(record.seeds("sscd-orig")) == 3
    results = read_results(run)
    assert results.lacking("missing") == ["gone.png"]
    assert results.lacking("unreadable") == ["broken.png"]
    notes = summary_table(results).notes
    assert any("missing: 1 (gone.png)" in note for note in notes)
    assert any("unreadable: 1 (broken.png)" in note for note in notes)


def test_given_training_images_replace_those_of_the_prompts(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (30, 200, 30)).save(tmp_path / "other.png")
    by_prompt = measure(run, "original")[1]
    by_hand = measure(run, "original", {1: [tmp_path / "other.png"]})[1]
    assert by_hand.values["sscd-orig"] != by_prompt.values["sscd-orig"]
    nothing = measure(run, "original", {0: [tmp_path / "other.png"]})[1]
    assert "sscd-orig" not in nothing.values
    assert nothing.references is None


def test_a_training_image_that_comes_later_is_compared_with(run: Run, tmp_path: Path) -> None:
    late = {1: [tmp_path / "late.png"]}
    assert "sscd-orig" not in measure(run, "original", late)[1].values
    Image.new("RGB", (9, 9), (3, 90, 200)).save(tmp_path / "late.png")
    assert "sscd-orig" in measure(run, "original", late)[1].values
    results = read_results(run)
    assert (results.lacking("missing"), results.lacking("unreadable")) == ([], [])


def test_a_training_image_of_the_same_size_in_bytes_is_another_one(
    run: Run, tmp_path: Path
) -> None:
    values = []
    for shade in (10, 200):
        Image.new("RGB", (9, 9), (3, shade, 20)).save(tmp_path / "a.bmp")
        values.append(measure(run, "original", {1: [tmp_path / "a.bmp"]})[1].values["sscd-orig"])
    assert values[0] != values[1]


def test_a_moved_run_keeps_its_training_images(run: Run, tmp_path: Path) -> None:
    """They move with it, or stay where they were."""
    Image.new("RGB", (9, 9), (3, 90, 200)).save(tmp_path / "own.png")
    measure(run, "original", {1: [tmp_path / "own.png"]})
    (tmp_path / "moved").mkdir()
    shutil.move(run.folder, tmp_path / "moved" / "run")
    (record,) = read_metrics(Run.load(tmp_path / "moved/run/metrics/original")).values()
    assert record.references
    (file,) = record.references.files
    assert file.locate(tmp_path / "moved" / "run") == tmp_path / "own.png"
    shutil.move(tmp_path / "own.png", tmp_path / "moved" / "own.png")
    assert file.locate(tmp_path / "moved" / "run") == tmp_path / "moved" / "own.png"


def test_without_any_training_image_there_is_no_copy_score(run: Run, tmp_path: Path) -> None:
    values = measure(run, "original", {1: [tmp_path / "gone.png"]})[1].values
    assert {"sscd-orig", "pixel-correlation"}.isdisjoint(values)


def test_other_prompts_have_a_column_of_their_own(run: Run, model: Model, tmp_path: Path) -> None:
    others = [Prompt("a cat"), Prompt("a dog")]
    names = ("original", "refined")
    for name in names:
        generate(run, model, name, prompts=others, label="animals")
        measure(run, f"{name}-on-animals")
    real = tmp_path / "real"
    real.mkdir()
    for shade in (0, 90, 200):
        Image.new("RGB", (30, 20), (shade, 30, 90)).save(real / f"{shade}.png")
    quality_all(run, [f"{name}-on-animals" for name in names], real, Colours())
    table = summary_table(read_results(run))
    assert table.columns[-1] == "animals"
    rows = {row.label: row for row in table.rows}
    assert rows["SSCD_Gen, neurons off"].cells[-1].count == 2
    assert rows["FID to real, neurons off"].cells[-1].count == 6
    assert rows["FID to real, neurons off"].by == "inception-colours (sha256 cccccccccccc)"
    assert not any(cell.figure for cell in rows["FID to real, before"].cells[:-1])


def test_other_prompts_have_no_training_images(run: Run, model: Model) -> None:
    """Prompt 1 of the run has one, which is not that of prompt 1 of another file."""
    others = [Prompt("a cat"), Prompt("a dog")]
    for name in ("original", "refined"):
        generate(run, model, name, prompts=others, label="animals")
    clip = ClipAlignment()
    records = measure(run, "refined-on-animals", alignment=clip)
    assert list(records) == [0, 1]
    assert all(record.references is None for record in records.values())
    assert set(records[1].values) == {"sscd-gen", "d-sscd", "a-clip"}
    dogs = images_in(run.folder / "images" / "refined-on-animals")[3:]
    assert records[1].values["a-clip"] == pytest.approx(tuple(clip(dogs, "a dog").tolist()))
    originals = images_in(run.folder / "images" / "original-on-animals")[3:]
    expected = np.diagonal(cosines(dogs, originals))
    assert records[1].values["sscd-gen"] == pytest.approx(tuple(expected), abs=1e-6)


def test_template_prompts_get_a_masked_score(run: Run, tmp_path: Path) -> None:
    lines = (run.folder / "prompts.jsonl").read_text().replace('"VM"', '"TM"')
    run.write("prompts.jsonl", lines)
    for number, shade in enumerate((40, 200)):
        image = Image.new("RGB", (20, 20), (30, 90, 160))
        image.paste((90, 20, 20), (0, 0, 10, 20))
        image.paste((shade, 10, 10), (12, 0, 20, 8))
        image.save(tmp_path / f"{number}.png")
    references = {1: [tmp_path / "0.png", tmp_path / "1.png"]}
    scores = measure(run, "original", references)[1].seeds("masked-copy")
    assert len(scores) == 3
    assert all(-1 <= score <= 1 for score in scores)


class TooFew:
    """A metric that forgets a seed."""

    name, label, measured_by = "too-few", "too few", Instrument("nothing")

    def __call__(self, images: PromptImages) -> tuple[float, ...]:
        return (0.0,) * (len(images.generated) - 1)


def test_a_metric_that_forgets_a_seed_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "make_metrics", lambda _: {"too-few": TooFew()})
    with pytest.raises(MetricError, match="too-few: 2 values for 3 images"):
        measure(run, WEAK)
