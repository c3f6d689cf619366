from pathlib import Path

import pytest
from PIL import Image

from unmemorize import MetricError
from unmemorize.metrics import numbered_images, read_image, read_references
from unmemorize.metrics._images import image_files


def put(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("L", (4, 4), 100).save(folder / name)


def test_folders_are_sorted_and_hold_nothing_else(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "a.JPG")
    (tmp_path / "notes.txt").write_text("x")
    assert [path.name for path in image_files(tmp_path)] == ["a.JPG", "b.png"]
    with pytest.raises(MetricError, match="not a folder with images"):
        image_files(tmp_path / "none")


def test_numbers_count_from_one_unless_there_is_a_zero(tmp_path: Path) -> None:
    put(tmp_path / "one", "0001_first.png", "0001_again.png", "12-x.png", "other.png")
    found = numbered_images(tmp_path / "one")
    assert {index: [path.name for path in paths] for index, paths in found.items()} == {
        0: ["0001_again.png", "0001_first.png"],
        11: ["12-x.png"],
    }
    put(tmp_path / "zero", "0000_first.png", "0001_second.png")
    assert sorted(numbered_images(tmp_path / "zero")) == [0, 1]
    put(tmp_path / "none", "x.png")
    with pytest.raises(MetricError, match=r"Name them like 0001_first\.jpg"):
        numbered_images(tmp_path / "none")


def test_references_that_are_gone_or_damaged_are_named(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    found = read_references([tmp_path / name for name in ("a.png", "b.png", "c.png")])
    assert [image.mode for image in found.images] == ["RGB"]
    assert (found.missing, found.unreadable) == (("c.png",), ("b.png",))
    with pytest.raises(MetricError, match="not readable as an image"):
        read_image(tmp_path / "b.png")
