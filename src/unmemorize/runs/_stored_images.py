"""Training images as run folders name them, so that a run and its images can be moved."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from unmemorize._paths import is_file


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """The file of a training image, as a run names it.

    Args:
        path: relative to the run folder; empty where there is no such path, as on another drive.
        absolute: where it was when the run was made. This finds the images of a run that was moved
            without them.
        sha256: the hash of its content; empty if there was no file.
    """

    path: str
    absolute: str
    sha256: str

    @classmethod
    def of(cls, image: Path, folder: Path) -> StoredImage:
        """Describe an image for the run in a folder."""
        return cls(
            path=_relative(image, folder),
            absolute=str(image.absolute()),
            sha256=hash_of_file(image),
        )

    def moved(self, image: Path, folder: Path) -> StoredImage:
        """Describe the same image for the run in another folder.

        Args:
            image: where it is, or should be.
            folder: the other run folder.
        """
        return replace(self, path=_relative(image, folder), absolute=str(image.absolute()))

    def locate(self, *folders: Path) -> Path:
        """Return where the image is now.

        Args:
            folders: the run folder; of a run in several folders all of them.

        Returns:
            The file with the hashed content, else one that exists, else where it should be.
        """
        places = [Path(self.absolute)]
        if self.path:
            relative = [Path(os.path.normpath(each.absolute() / self.path)) for each in folders]
            places = relative + places
        existing = [place for place in dict.fromkeys(places) if is_file(place)]
        if len(existing) > 1 and self.sha256:
            existing.sort(key=lambda place: hash_of_file(place) != self.sha256)
        return (existing or places)[0]


def _relative(image: Path, folder: Path) -> str:
    """Return the path from a folder to an image; empty where there is none."""
    try:
        return Path(os.path.relpath(image.absolute(), folder.absolute())).as_posix()
    except ValueError:
        return ""


def unchanged_images(images: Iterable[StoredImage], folder: Path) -> list[Path]:
    """Return where those images are that are still what the run in a folder compares with.

    An image that could not be read when the run was made is none of them.
    """
    places = ((image, image.locate(folder)) for image in images if image.sha256)
    return [place for image, place in places if hash_of_file(place) == image.sha256]


def hash_of_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return ""
