import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import data, sources
from training.sources import Photograph, fetch_emoji, load_photograph
from training.templates import TEMPLATES, draw_template, still_mask
from unmemorize import TestbedError, testbed


def emoji_package(folder: Path, design: str, colour: tuple[int, int, int, int]) -> tuple[str, str]:
    """A small package in the form of the emoji packages, and its pin."""
    rows = [{"name": name, "image": f"{name}.png"} for name in ("RED-FOX", "APPLE", "PLUM")]
    buffer = io.BytesIO()
    Image.new("RGBA", (72, 72), colour).save(buffer, "PNG")
    contents = {"package/emoji.json": json.dumps(rows).encode()}
    contents |= {f"package/img/{design}/64/{row['image']}": buffer.getvalue() for row in rows[:2]}
    path = folder / f"emoji-{design}-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return f"emoji-{design}@1.0.0", f"sha512-{digest}"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two emoji packages in the cache, already downloaded."""
    colours = {"google": (255, 0, 0, 128), "twitter": (0, 0, 255, 255)}
    pins = {design: emoji_package(tmp_path, design, colour) for design, colour in colours.items()}
    monkeypatch.setattr(sources, "EMOJI_PACKAGES", pins)
    return tmp_path


def test_emoji_come_in_two_designs(packages: Path) -> None:
    concepts = fetch_emoji(packages, ["red-fox", "apple"])
    assert list(concepts) == ["red-fox", "apple"]
    designs = concepts["apple"].designs
    assert designs.shape == (2, 64, 64, 4)
    assert designs[0, 32, 32].tolist() == [255, 0, 0, 128]
    assert designs[1, 32, 32].tolist() == [0, 0, 255, 255]


def test_missing_emoji_are_named(packages: Path) -> None:
    with pytest.raises(TestbedError, match=r"emoji-google@1.0.0 has no emoji of the name quince"):
        fetch_emoji(packages, ["apple", "quince"])
    with pytest.raises(TestbedError, match=r"no file package/img/google/64/PLUM.png"):
        fetch_emoji(packages, ["plum"])


def test_packages_are_pinned(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (packages / "emoji-google-1.0.0.tgz").write_bytes(b"something else")
    with pytest.raises(TestbedError, match="not the pinned package"):
        fetch_emoji(packages, ["apple"])
    (packages / "emoji-google-1.0.0.tgz").unlink()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TestbedError, match="npm could not fetch"):
        fetch_emoji(packages, ["apple"])


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

    def load(name: str, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
        return load_photograph(Photograph("p", "p", f"photoshop_of_tests/{name}", "CC0", box))

    grey = load("grey.png")
    assert (grey.shape, int(grey.min()), int(grey.max())) == ((64, 64, 3), 200, 200)
    assert np.array_equal(load("array.npz"), grey)
    assert load("grey.png", (0.0, 0.0, 0.25, 0.5)).max() == 0
    assert load("clear.png").min() == 255
    with pytest.raises(TestbedError, match="not installed"):
        load_photograph(Photograph("p", "nothing", "no_such_package/a.png", "CC0"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_change_in_one_part_only(name: str) -> None:
    draws = [draw_template(name, np.random.default_rng(100 + seed)) for seed in range(6)]
    mask = still_mask(name)
    assert 0.4 < mask.mean() < 0.98
    still = np.stack(draws).astype(float)[:, mask]
    assert still.std(0).max() < 3
    assert np.stack(draws).astype(float)[:, ~mask].std(0).max() > 20


def test_unused_photographs_are_squares_of_their_files() -> None:
    images = data.unused_images()
    assert images.shape == (len(testbed.unused()), 64, 64, 3)
    with Image.open(testbed.unused()[0].image) as image:
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        middle = np.asarray(image.crop((left, top, left + side, top + side)).resize((64, 64)))
    assert np.corrcoef(images[0].ravel(), middle.ravel())[0, 1] > 0.98
