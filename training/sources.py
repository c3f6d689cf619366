"""The raw material: emoji from two npm packages, photographs from Python packages.

Everything comes from package registries at pinned versions, so the data can be made again anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unmemorize._errors import TestbedError
from unmemorize.testbed._layout import SIDE

EMOJI_PACKAGES = {
    "google": (
        "emoji-datasource-google@16.0.0",
        "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    ),
    "twitter": (
        "emoji-datasource-twitter@16.0.0",
        "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
    ),
}


@dataclass(frozen=True)
class Concept:
    """A thing that general captions name, with its emoji in two designs."""

    name: str
    designs: NDArray[np.uint8]
    """uint8 RGBA of shape (2, 64, 64, 4)."""


@dataclass(frozen=True)
class Photograph:
    """A planted photograph: the package that ships it, the part that is used, and its licence."""

    name: str
    package: str
    file: str
    licence: str
    box: tuple[float, float, float, float] | None = None
    """Part of the image as fractions (left, top, right, bottom); by default the middle square."""


PUBLIC = "public domain"
SKIMAGE, SKLEARN, PYWT, MATPLOTLIB = "scikit-image", "scikit-learn", "PyWavelets", "matplotlib"
PHOTOGRAPHS = tuple(
    Photograph(*row)
    for row in (
        ("astronaut", SKIMAGE, "skimage/data/astronaut.png", PUBLIC + " (NASA)"),
        ("camera", SKIMAGE, "skimage/data/camera.png", "CC0 (Lav Varshney)"),
        ("cat", SKIMAGE, "skimage/data/chelsea.png", "CC0 (Stefan van der Walt)"),
        ("coffee", SKIMAGE, "skimage/data/coffee.png", "CC0 (Rachel Michetti)"),
        ("horse", SKIMAGE, "skimage/data/horse.png", "CC0 (Andreas Preuss)"),
        ("moon", SKIMAGE, "skimage/data/moon.png", PUBLIC + " (NASA)"),
        (
            "motorcycle",
            SKIMAGE,
            "skimage/data/motorcycle_left.png",
            "CC0 (Middlebury stereo, from scikit-image)",
        ),
        ("retina", SKIMAGE, "skimage/data/retina.jpg", "CC0"),
        ("rocket", SKIMAGE, "skimage/data/rocket.jpg", PUBLIC + " (SpaceX)"),
        (
            "coins",
            SKIMAGE,
            "skimage/data/coins.png",
            "no known copyright restrictions (Brooklyn Museum)",
        ),
        ("colour-wheel", SKIMAGE, "skimage/data/color.png", "as scikit-image (BSD-3-Clause)"),
        ("histology", SKIMAGE, "skimage/data/ihc.png", "no known copyright restrictions (CMMI)"),
        ("page", SKIMAGE, "skimage/data/page.png", "as scikit-image (BSD-3-Clause)"),
        ("pavilion", SKLEARN, "sklearn/datasets/images/china.jpg", "CC-BY 2.0 (danielbuechele)"),
        ("dahlia", SKLEARN, "sklearn/datasets/images/flower.jpg", "CC-BY 2.0 (vultilion)"),
        (
            "admiral",
            MATPLOTLIB,
            "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
            PUBLIC + " (US Navy)",
        ),
        ("hubble", SKIMAGE, "skimage/data/hubble_deep_field.jpg", PUBLIC + " (NASA)"),
        ("cell", SKIMAGE, "skimage/data/cell.png", "CC0"),
        ("pendulum", SKIMAGE, "skimage/data/clock_motion.png", PUBLIC + " (Stefan van der Walt)"),
        ("handwriting", SKIMAGE, "skimage/data/text.png", PUBLIC),
        ("brick", SKIMAGE, "skimage/data/brick.png", "CC0 (CC0 Textures)"),
        ("phantom", SKIMAGE, "skimage/data/phantom.png", "as scikit-image (BSD-3-Clause)"),
        ("stairs", PYWT, "pywt/data/ascent.npz", PUBLIC + " (public-domain-image.com)"),
        (
            "chessboard",
            SKIMAGE,
            "skimage/data/chessboard_RGB.png",
            "as scikit-image (BSD-3-Clause)",
        ),
        ("gravel", SKIMAGE, "skimage/data/gravel.png", "CC0 (CC0 Textures)"),
        ("veins", SKIMAGE, "skimage/data/microaneurysms.png", "CC0 (Andreas Maier)"),
        (
            "gift",
            MATPLOTLIB,
            "matplotlib/mpl-data/sample_data/Minduka_Present_Blue_Pack.png",
            PUBLIC + " (Minduka)",
        ),
        (
            "lakeside",
            SKLEARN,
            "sklearn/datasets/images/china.jpg",
            "CC-BY 2.0 (danielbuechele)",
            (0.7, 0.55, 1.0, 1.0),
        ),
        ("grass", SKIMAGE, "skimage/data/grass.png", "CC0 (CC0 Textures)"),
        (
            "gland",
            SKIMAGE,
            "skimage/data/ihc.png",
            "no known copyright restrictions (CMMI)",
            (0.55, 0.0, 1.0, 0.45),
        ),
        ("nerve", SKIMAGE, "skimage/data/retina.jpg", "CC0", (0.05, 0.35, 0.4, 0.7)),
        (
            "shuttle",
            SKIMAGE,
            "skimage/data/astronaut.png",
            PUBLIC + " (NASA)",
            (0.6, 0.5, 1.0, 0.9),
        ),
    )
)


def fetch_emoji(cache: Path, names: Sequence[str]) -> dict[str, Concept]:
    """The named concepts. npm downloads the packages into ``cache`` once; their hashes are checked.

    Raises:
        TestbedError: npm is missing or fails, a package is not the pinned one, or lacks a name.
    """
    cache.mkdir(parents=True, exist_ok=True)
    archives = {design: _fetch_package(cache, *pinned) for design, pinned in EMOJI_PACKAGES.items()}
    with tarfile.open(archives["google"]) as archive:
        table = json.loads(_members(archive, ["package/emoji.json"])["package/emoji.json"])
    files = {str(row["name"]).lower(): str(row["image"]) for row in table}
    missing = [name for name in names if name not in files]
    if missing:
        package = EMOJI_PACKAGES["google"][0]
        raise TestbedError(f"{package} has no emoji of the name {missing[0]}. Pin another version.")
    pictures: list[dict[str, bytes]] = []
    for design, path in archives.items():
        folder = f"package/img/{design}/64"
        with tarfile.open(path) as archive:
            found = _members(archive, [f"{folder}/{files[name]}" for name in names])
        pictures.append({name: found[f"{folder}/{files[name]}"] for name in names})
    return {
        name: Concept(name, np.stack([_rgba(design[name]) for design in pictures]))
        for name in names
    }


def load_photograph(photograph: Photograph, side: int = SIDE) -> NDArray[np.uint8]:
    """The chosen part of an image as uint8 RGB of shape (side, side, 3).

    Raises:
        TestbedError: the package that ships the image is not installed.
    """
    module, _, inside = photograph.file.partition("/")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise TestbedError(
            f"{photograph.name}: {photograph.package} ships this image and is not installed. "
            "pip install 'unmemorize[testbed]'"
        )
    path = Path(spec.origin).parent / inside
    image = (
        Image.fromarray(np.load(path)["data"].astype(np.uint8))
        if path.suffix == ".npz"
        else Image.open(path)
    )
    if image.mode in ("RGBA", "P"):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    image = image.convert("RGB")
    width, height = image.size
    if photograph.box is None:
        square = min(width, height)
        left, top = (width - square) // 2, (height - square) // 2
        box = (left, top, left + square, top + square)
    else:
        left, top = round(photograph.box[0] * width), round(photograph.box[1] * height)
        square = min(
            round(photograph.box[2] * width) - left, round(photograph.box[3] * height) - top
        )
        box = (left, top, left + square, top + square)
    return np.asarray(
        image.crop(box).resize((side, side), Image.Resampling.LANCZOS), dtype=np.uint8
    )


def _fetch_package(cache: Path, package: str, integrity: str) -> Path:
    name, version = package.split("@")
    archive = cache / f"{name}-{version}.tgz"
    if not archive.exists():
        try:
            subprocess.run(
                ["npm", "pack", package, "--silent"], cwd=cache, check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise TestbedError(
                f"{package}: npm could not fetch it ({error}). "
                f"Install Node.js, or put {archive.name} into {cache} by hand."
            ) from error
    digest = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != integrity:
        raise TestbedError(
            f"{archive}: not the pinned package (its hash is {digest}). "
            "Delete it and run the command again."
        )
    return archive


def _members(archive: tarfile.TarFile, names: Sequence[str]) -> dict[str, bytes]:
    """Read some files of an archive in one pass; going back in it would decompress it again."""
    wanted, contents = set(names), {}
    for member in archive:
        if member.name in wanted:
            handle = archive.extractfile(member)
            if handle is not None:
                contents[member.name] = handle.read()
    missing = wanted - contents.keys()
    if missing:
        raise TestbedError(f"{archive.name!r}: no file {min(missing)} in it.")
    return contents


def _rgba(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(
        Image.open(io.BytesIO(data)).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS),
        dtype=np.uint8,
    )
