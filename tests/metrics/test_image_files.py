from pathlib import Path

import pytest
from PIL import Image

from unmemorize import MetricError, Prompt
from unmemorize.metrics import have_references, read_image, read_references
from unmemorize.metrics._images import image_files
from unmemorize.runs import StoredImage


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


def test_references_that_are_gone_or_damaged_are_named(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    found = read_references([tmp_path / name for name in ("a.png", "b.png", "c.png")])
    assert [image.mode for image in found.images] == ["RGB"]
    assert (found.missing, found.unreadable) == (("c.png",), ("b.png",))
    with pytest.raises(MetricError, match="not readable as an image"):
        read_image(tmp_path / "b.png")


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0b.png"])
def test_names_that_no_file_can_have_are_missing_or_unreadable(name: str, tmp_path: Path) -> None:
    found = read_references([tmp_path / name])
    assert (found.images, found.unreadable + found.missing) == ((), (name,))
    assert not have_references([Prompt("p", images=(tmp_path / name,))])
    stored = StoredImage.of(tmp_path / name, tmp_path)
    assert (stored.sha256, stored.locate(tmp_path)) == ("", tmp_path / name)
    with pytest.raises(MetricError, match="not a folder with images"):
        image_files(tmp_path / name)
