"""Reading images: single files, training images that may be missing, and folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from unmemorize._errors import MetricError
from unmemorize._paths import entries, exists
from unmemorize._prompts import Prompt
from unmemorize.metrics._read_image import read_image

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


@dataclass(frozen=True)
class TrainingImages:
    """The training images of a prompt.

    Args:
        images: those that could be read.
        missing: the names of the files that do not exist.
        unreadable: the names of the files that are no images.
    """

    images: tuple[Image.Image, ...]
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]


def read_references(paths: Sequence[Path]) -> TrainingImages:
    """Read training images, and note the names of those that are missing or damaged.

    These are no error, since published links to training images go stale.
    """
    images, missing, unreadable = [], [], []
    for path in paths:
        if not exists(path):
            missing.append(path.name)
            continue
        try:
            images.append(read_image(path))
        except MetricError:
            unreadable.append(path.name)
    return TrainingImages(tuple(images), tuple(missing), tuple(unreadable))


def have_references(prompts: Iterable[Prompt]) -> bool:
    """Tell whether each of the prompts has a training image that can be read."""
    return all(read_references(prompt.images).images for prompt in prompts)


def image_files(folder: str | Path) -> list[Path]:
    """Return the image files of a folder, sorted by name.

    Raises:
        MetricError: the folder does not exist or holds no image.
    """
    folder = Path(folder)
    images = images_in(folder)
    if not images:
        raise MetricError(
            f"{folder}: not a folder with images ({', '.join(_ENDINGS)}). Check the path."
        )
    return images


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name; none if it does not exist."""
    return [path for path in entries(folder) if path.suffix.lower() in _ENDINGS]
