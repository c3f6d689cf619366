"""Images from files: one that must be there, training images that may be missing, and whole folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from unmemorize._errors import MetricError

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_NUMBERED = re.compile(r"(\d+)[_.\-]")


@dataclass(frozen=True)
class References:
    """The training images of a prompt that could be read, and the names of those that could not."""

    images: tuple[Image.Image, ...]
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]


def read_image(path: Path) -> Image.Image:
    """An image file as RGB.

    Raises:
        MetricError: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as problem:
        raise MetricError(
            f"{path}: not readable as an image ({problem}). Put the image there, or correct the prompt file."
        ) from problem


def read_references(paths: Sequence[Path]) -> References:
    """Training images by their paths; missing and damaged ones are counted by name, not fatal, as published links go stale."""
    images, missing, unreadable = [], [], []
    for path in paths:
        if not path.exists():
            missing.append(path.name)
            continue
        try:
            images.append(read_image(path))
        except MetricError:
            unreadable.append(path.name)
    return References(tuple(images), tuple(missing), tuple(unreadable))


def image_files(folder: str | Path) -> list[Path]:
    """The image files of a folder, sorted by name.

    Raises:
        MetricError: the folder does not exist or holds no image.
    """
    folder = Path(folder)
    found = (
        sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS)
        if folder.is_dir()
        else []
    )
    if not found:
        raise MetricError(
            f"{folder}: no folder with images ({', '.join(_ENDINGS)}). Check the path."
        )
    return found


def numbered_images(folder: str | Path) -> dict[int, list[Path]]:
    """The image files of a folder by the index of their prompt: ``0001_name.jpg`` belongs to the first, as in the published code.

    Several files may bear one number. Where a file has the number 0, counting starts there.

    Raises:
        MetricError: the folder holds no image whose name begins with a number.
    """
    by_number: dict[int, list[Path]] = {}
    for path in image_files(folder):
        found = _NUMBERED.match(path.name)
        if found:
            by_number.setdefault(int(found[1]), []).append(path)
    if not by_number:
        raise MetricError(
            f"{folder}: no image there begins with the number of its prompt. Name them like 0001_first.jpg."
        )
    first = 0 if 0 in by_number else 1
    return {number - first: paths for number, paths in by_number.items()}
