"""What a pack of evidence holds and what it leaves out, whatever run it is of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unmemorize._errors import EvidenceError
from unmemorize._files import from_json, read_json
from unmemorize._paths import exists
from unmemorize._words import counted
from unmemorize.runs import StoredImage, hash_of_file

SCHEMA = "unmemorize.evidence/1"
CONTENTS = "evidence.json"
_PRIVATE = "private"
_NOT_SHOWN = "the report does not show it"
_GONE = "not there when the pack was made"
_NOT_COMPARED = "not there when the run was made"
_REFERENCES = "references"


@dataclass(frozen=True)
class LeftOut:
    """A file that belongs to the evidence and is not in the pack.

    Args:
        sha256: its hash.
        why: why it was left out.
    """

    sha256: str
    why: str


@dataclass(frozen=True)
class PackedFile:
    """What ``evidence.json`` says about a file of the pack.

    Args:
        sha256: its hash.
        bytes: its size.
    """

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Contents:
    """The content of ``evidence.json``.

    Args:
        schema: the version of the format.
        redacted: whether private images were left out.
        files: the files of the pack by name.
        left_out: what belongs to the evidence and is not in the pack, by name.
    """

    schema: str
    redacted: bool
    files: dict[str, PackedFile]
    left_out: dict[str, LeftOut]


@dataclass(frozen=True)
class Packing:
    """What goes into the pack of one run.

    Args:
        files: where each file is, by its name in the pack.
        rewritten: files that differ from those of the run, by name. They take their place.
        left_out: what belongs to the evidence and does not go into the pack, by name.
    """

    files: Mapping[str, Path]
    rewritten: Mapping[str, bytes]
    left_out: Mapping[str, LeftOut]

    def content(self, name: str) -> bytes:
        """Return the content of a file by its name in the pack.

        Raises:
            EvidenceError: the file of the run cannot be read.
        """
        if name in self.rewritten:
            return self.rewritten[name]
        try:
            return self.files[name].read_bytes()
        except OSError as problem:
            raise EvidenceError(
                f"{self.files[name]}: cannot be read ({problem.strerror}). Repeat the command that "
                "made the run; it makes again what is missing."
            ) from problem


def reference_name(image: StoredImage) -> str:
    """Return the name of a training image, or of an audited one, in a pack.

    Examples:
        >>> reference_name(StoredImage(path="", absolute="/home/me/cat.PNG", sha256="12ab"))
        'references/12ab.png'
    """
    suffix = PurePosixPath(image.absolute or image.path).suffix.lower()
    return f"{_REFERENCES}/{image.sha256 or 'not-readable'}{suffix}"


def packed_reference(image: StoredImage) -> StoredImage:
    """Describe such an image by its place in a pack, without the paths of this machine."""
    return StoredImage(path=reference_name(image), absolute="", sha256=image.sha256)


def absent_from_unpacked(folder: Path) -> dict[str, LeftOut]:
    """Return what the pack that a run folder was unpacked from had left out, by name.

    Files that are in the folder by now are not among it. A folder that comes from no pack has none.

    Raises:
        EvidenceError: the list of the pack is damaged.
    """
    path = folder / CONTENTS
    if not exists(path):
        return {}
    listing = read_json(path, EvidenceError, "list of a pack")
    problem, way_out = f"{path}: damaged", "Unpack the pack again."
    left_out = from_json(Contents, listing, EvidenceError, problem, way_out).left_out
    return {name: entry for name, entry in left_out.items() if not exists(folder / name)}


def refuse_absent_private(folder: Path) -> None:
    """Refuse to show what a redacted pack has left out of a run folder.

    Raises:
        EvidenceError: the folder comes from a pack without private images.
    """
    private = [
        name for name, entry in absent_from_unpacked(folder).items() if entry.why == _PRIVATE
    ]
    if private:
        raise EvidenceError(
            f"{folder}: comes from a redacted pack, which lacks {counted(len(private), 'image')} "
            f"that the report would show, such as {private[0]}. Add --redact (redact=True), or "
            "name the run that the pack was made of."
        )


def images_left_out(
    folder: Path,
    shown: Collection[str],
    private: Collection[str],
    references: Iterable[StoredImage],
) -> Iterator[tuple[str, LeftOut]]:
    """Yield the generated images that do not go into a pack, by name.

    Args:
        folder: the run folder.
        shown: the images that the report is about.
        private: those of them that show training images and are not to be handed on.
        references: the training images, or audited ones, which may lie in the run folder.
    """
    apart = {image.locate(folder).resolve() for image in references}
    for path in sorted(folder.glob("*/*.png")):
        name = path.relative_to(folder).as_posix()
        if path.resolve() in apart:
            continue
        if name not in shown:
            yield name, LeftOut(hash_of_file(path), _NOT_SHOWN)
        elif name in private:
            yield name, LeftOut(hash_of_file(path), _PRIVATE)


def references_left_out(
    images: Iterable[StoredImage], folder: Path, *, redact: bool
) -> Iterator[tuple[str, LeftOut]]:
    """Yield the training images, or audited ones, that do not go into a pack, by name.

    Args:
        images: the images.
        folder: the run folder.
        redact: whether they are private.

    Raises:
        EvidenceError: one of them has changed since.
    """
    for image in images:
        if redact:
            yield reference_name(image), LeftOut(image.sha256, _PRIVATE)
        elif not image.sha256:
            yield reference_name(image), LeftOut("", _NOT_COMPARED)
        elif not (found := hash_of_file(image.locate(folder))):
            yield reference_name(image), LeftOut(image.sha256, _GONE)
        elif found != image.sha256:
            raise EvidenceError(
                f"{image.locate(folder)}: this image has changed since the run was made, which "
                "compares with what it was. Put that back, or repeat the run in a new folder."
            )
