from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from colours import Colours
from tasks import AnyRun
from unmemorize import GenerationSettings, MetricError, Run, RunError
from unmemorize._files import to_json
from unmemorize.generation import ImageSet, ImageSetRun, NeuronSet
from unmemorize.metrics import QualityRecord, fitting_quality, quality_all, read_quality
from unmemorize.metrics._images import image_files
from unmemorize.metrics._quality import quality
from unmemorize.runs import Inputs

INPUTS = Inputs(fingerprint="f")
SETS = {"original": "", "refined-on-animals": "animals"}


def save(folder: Path, *colours: tuple[int, int, int]) -> None:
    folder.mkdir(exist_ok=True)
    for number, colour in enumerate(colours):
        Image.new("RGB", (30, 20), colour).save(folder / f"{number}.png")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with two sets of images, and a folder of real ones."""
    run = Run.open(tmp_path / "run", AnyRun(), inputs=INPUTS, model="m", items=1)
    for shift, (name, on) in enumerate(SETS.items()):
        images = ImageSet(neurons=NeuronSet.parse(name.split("-")[0]), label=on)
        settings = replace(ImageSetRun.of(images, GenerationSettings(), None), on=on)
        folder = run.folder / "images" / name
        Run.open(folder, settings, inputs=INPUTS, model="m", items=1)
        save(folder, *((40 * number + shift, 90, 30 * shift) for number in range(4 + shift)))
    save(tmp_path / "real", (0, 30, 90), (90, 30, 70), (200, 30, 90))
    return run


def test_a_set_that_does_not_exist_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no images nothing\. This run of kind any has no loc"):
        quality_all(run, ["original", "nothing"], tmp_path / "real", Colours())


def test_every_set_has_its_distances_and_keeps_them(run: Run, tmp_path: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    for _ in range(2):
        quality_all(
            run,
            list(SETS),
            tmp_path / "real",
            Colours(),
            progress=lambda *at: steps.append(at),
        )
    assert steps[: len(steps) // 2] == [(3, 12), (7, 12), (12, 12)]
    records = read_quality(run)
    assert list(records) == [0, 1]
    real, *groups = (
        Colours().features([Image.open(path) for path in image_files(folder)])
        for folder in (tmp_path / "real", *(run.folder / "images" / name for name in SETS))
    )
    for record, (name, on), features in zip(records.values(), SETS.items(), groups, strict=True):
        distances = quality(features, real)
        assert (record.fid, record.kid, record.kid_std) == pytest.approx(
            (distances.fid, distances.kid, distances.kid_std)
        )
        assert replace(record, fid=0.0, kid=0.0, kid_std=0.0) == QualityRecord(
            set=name,
            on=on,
            against="real",
            kind="FID",
            extractor="inception-colours",
            extractor_sha256="c" * 64,
            fid=0.0,
            kid=0.0,
            kid_std=0.0,
            generated=len(features),
            real=3,
            folder=str(tmp_path / "real"),
            images=record.images,
        )
    assert len({record.images for record in records.values()} - {""}) == 2
    assert records[0].fid != pytest.approx(records[1].fid)


def test_another_folder_or_extractor_adds_a_record(run: Run, tmp_path: Path) -> None:
    (tmp_path / "real").rename(tmp_path / "photographs")
    other = Colours()
    other.digest = "d" * 64
    for extractor in (Colours(), other):
        quality_all(run, ["original"], tmp_path / "photographs", extractor)
    save(tmp_path / "real", (1, 2, 3), (30, 20, 10))
    quality_all(run, ["original"], tmp_path / "real", other)
    found = [(record.against, record.extractor_sha256[0]) for record in read_quality(run).values()]
    assert found == [("photographs", "c"), ("photographs", "d"), ("real", "d")]


def test_folders_of_the_same_name_are_told_apart(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parent, shade in (("a", 0), ("b", 200)):
        (tmp_path / parent).mkdir()
        save(tmp_path / parent / "val", (shade, 30, 90), (90, shade, 70))
        quality_all(run, ["original"], tmp_path / parent / "val", Colours())
    first, second = read_quality(run).values()
    assert (first.against, second.against) == ("val", "val")
    assert (first.folder, second.folder) == (str(tmp_path / "a/val"), str(tmp_path / "b/val"))
    assert first.fid != second.fid
    nameless = tmp_path / os.fsdecode(b"caf\xe9")
    save(nameless, (1, 2, 3), (30, 20, 10))
    quality_all(run, ["original"], nameless, Colours())
    *_, third = read_quality(run).values()
    assert third.against == "caf\\udce9"
    monkeypatch.chdir(tmp_path / "a" / "val")
    quality_all(run, ["original"], ".", Colours())
    quality_all(run, ["original"], tmp_path / "b" / ".." / "a" / "val", Colours())
    assert list(read_quality(run).values()) == [first, second, third]


def test_a_record_of_an_earlier_version_is_replaced(run: Run, tmp_path: Path) -> None:
    quality_all(run, ["original"], tmp_path / "real", Colours())
    (record,) = read_quality(run).values()
    for name in ("real", "", "other"):
        (run.folder / "quality.jsonl").unlink()
        run.append("quality", 0, to_json(replace(record, against=name, folder="", images="")))
        quality_all(run, ["original"], tmp_path / "real", Colours())
        assert record in read_quality(run).values()
        assert len(read_quality(run)) == 1 + (name == "other")


def test_distances_fit_only_the_images_that_were_measured(run: Run, tmp_path: Path) -> None:
    quality_all(run, list(SETS), tmp_path / "real", Colours())
    first, second = read_quality(run).values()
    assert fitting_quality(run) == ((first, second), ())
    folder = run.folder / "images" / "original"
    images = sorted(folder.glob("*.png"))

    content = images[0].read_bytes()
    images[0].unlink()  # one is gone
    assert fitting_quality(run) == ((second,), (first,))
    images[0].write_bytes(content)
    assert fitting_quality(run) == ((first, second), ())

    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(manifest.replace('"steps": 50', '"steps": 20'))
    assert Run.load(folder).settings(ImageSetRun).steps == 20
    assert fitting_quality(run) == ((second,), (first,))
    shutil.rmtree(folder)
    assert fitting_quality(run) == ((second,), (first,))


def test_distances_of_an_earlier_version_fit_as_many_images(run: Run, tmp_path: Path) -> None:
    quality_all(run, ["original"], tmp_path / "real", Colours())
    (record,) = read_quality(run).values()
    old = to_json(record)
    del old["folder"], old["images"]
    (run.folder / "quality.jsonl").unlink()
    run.append("quality", 0, old)
    run.append("quality", 1, old | {"set": "refined"})
    (fits,), (gone,) = fitting_quality(run)
    assert (fits.set, fits.images, gone.set) == ("original", "", "refined")
    run.append("quality", 0, old | {"generated": 3})
    assert [each.generated for each in fitting_quality(run)[1]] == [3, 4]


def test_a_folder_without_images_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="not a folder with images"):
        quality_all(run, ["original"], tmp_path / "none", Colours())


def test_damaged_records_are_refused(run: Run) -> None:
    run.append("quality", 0, {"set": "original"})
    with pytest.raises(RunError, match=r"damaged record of quality .*quality\.jsonl"):
        read_quality(run)
