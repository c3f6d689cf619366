"""Small files are written whole or not at all, and errors on reading say what to do."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from unmemorize._errors import UnmemorizeError
from unmemorize._paths import is_folder

if TYPE_CHECKING:
    from PIL import Image

Record = TypeVar("Record")

_LARGEST = 256 * 1024**2
"""Bytes. No file that is read at once comes near this size."""


def _mode() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask


_MODE = _mode()
"""The mode of new files under the user's umask. Temporary files start with a stricter one."""


def atomic_write(
    path: Path, content: bytes | str, error: type[UnmemorizeError] = UnmemorizeError
) -> None:
    """Write a file whole: a reader sees either the old content or the new.

    A text is written as UTF-8. Halves of characters, as in paths that are no UTF-8, are written out
    like ``\\udce9``, which JSON reads as the same again.

    Raises:
        UnmemorizeError: (or the given ``error``) ``path`` is a folder, its own folder cannot be
            written, or the disk is full. ``path`` is then as it was before.
    """
    with atomic_file(path, error) as file:
        file.write(
            content.encode(errors="backslashreplace") if isinstance(content, str) else content
        )


@contextmanager
def atomic_file(path: Path, error: type[UnmemorizeError]) -> Iterator[BinaryIO]:
    """Do the same as `atomic_write` for content that comes in pieces.

    The file replaces ``path`` at the end of the context.
    """
    with temporary_file(path, error) as (partial, file):
        yield file
        file.flush()
        os.fsync(file.fileno())
        publish(partial, path)


def publish(partial: Path, path: Path) -> None:
    """Move a finished temporary file to its place and let those read it who may read new files.

    The move is atomic within one file system.
    """
    partial.chmod(_MODE)
    shutil.move(partial, path)


@contextmanager
def temporary_file(beside: Path, error: type[UnmemorizeError]) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a temporary file in the folder of a path, for writing and reading.

    The folder is made when it does not exist. The file is deleted at the end of the context unless
    it was moved.

    Raises:
        UnmemorizeError: the given ``error``. The path is a folder, its own folder cannot be
            written, or the disk is full.
    """
    if is_folder(beside):  # the file would be moved into it
        raise error(f"{beside}: is a folder. Name a file.")
    partial: Path | None = None
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=beside.parent, prefix=f".{beside.name}.")
        partial = Path(name)
        with os.fdopen(descriptor, "w+b") as file:
            yield partial, file
    except OSError as problem:
        raise error(
            f"{beside}: cannot be written ({problem.strerror or problem}). Free some space or "
            "choose another place."
        ) from problem
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, error: type[UnmemorizeError]) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` when the context ends.

    It is deleted when the context ends by an exception.

    Raises:
        UnmemorizeError: the given ``error``. The folder cannot be written.
    """
    partial: str | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.")
        yield Path(partial)
        Path(partial).chmod(_MODE | (_MODE & 0o444) >> 2)  # those who may read may list it
        Path(partial).rename(folder)
    except BaseException as problem:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if isinstance(problem, OSError):
            raise error(
                f"{folder}: cannot be written ({problem}). Free some space or choose another place."
            ) from problem
        raise


def safetensors_bytes(
    tensors: dict[str, Tensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return a safetensors file. The same content gives the same bytes.

    The library alone writes metadata in any order.
    """
    data = save(tensors, {"format": "pt", **(metadata or {})})
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    return safetensors_header(header) + data[8 + length :]


def write_tensors(path: Path, tensors: dict[str, Tensor], error: type[UnmemorizeError]) -> None:
    """Write a safetensors file of any size, whole or not at all.

    Raises:
        UnmemorizeError: the given ``error``. The folder cannot be written or the disk is full.
    """
    with temporary_file(path, error) as (partial, _file):
        try:
            save_file(tensors, partial, {"format": "pt"})
        except SafetensorError as problem:  # which hides the error of the disk
            raise OSError(str(problem)) from problem
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        publish(partial, path)


def read_tensors(path: Path, error: type[UnmemorizeError], what: str) -> dict[str, Tensor]:
    """Read a safetensors file of any size.

    Args:
        path: the file.
        error: what is raised where it is missing or damaged.
        what: the kind of file, for the error.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as problem:
        raise error(f"{path}: the {what} cannot be read ({problem}). Check the path.") from problem


def safetensors_header(entries: Mapping[str, Any]) -> bytes:
    """Return the header of a safetensors file, in front of its data."""
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    return struct.pack("<Q", len(text)) + text


def png_bytes(image: Image.Image) -> bytes:
    """Return the content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def type_in_words(value: object) -> str:
    """Name the type of a value that should have been another one, for an error."""
    return "None" if value is None else f"a value of type {type(value).__name__}"


def refuse_other_type(
    name: str, value: object, expected: type, error: type[UnmemorizeError], way_out: str
) -> None:
    """Check the type of what a public function was given.

    Args:
        name: the name of the argument.
        value: what was given.
        expected: the type it must have.
        error: what is raised otherwise.
        way_out: how to get a value of this type.

    Raises:
        UnmemorizeError: the given ``error``.
    """
    if not isinstance(value, expected):
        raise error(
            f"{name}={value!r:.60}: {type_in_words(value)}, not {expected.__name__}. {way_out}"
        )


def as_path(path: object, error: type[UnmemorizeError], what: str) -> Path:
    """Turn what a public function was given as a file into a path.

    Raises:
        UnmemorizeError: the given ``error``. It is neither a text nor a path.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise error(
            f"{path!r:.60}: not the path of a {what}. Give a text or a Path, not "
            f"{'an empty text' if path == '' else type_in_words(path)}."
        )
    return Path(path)


def as_paths(paths: object, error: type[UnmemorizeError], what: str) -> list[Path]:
    """Turn what a public function was given as several files into paths.

    Raises:
        UnmemorizeError: the given ``error``. It is a single path, no collection, or one of them is
            no path, such as a loaded image.
    """
    if isinstance(paths, (str, bytes, os.PathLike, Mapping)) or not isinstance(paths, Iterable):
        raise error(f"{paths!r:.60}: {type_in_words(paths)}. Give a list of the paths of {what}s.")
    return [as_path(path, error, what) for path in paths]


def read_bytes(
    path: Path, error: type[UnmemorizeError], what: str, largest: int = _LARGEST
) -> bytes:
    """Read a file that must exist and be no larger than ``largest`` bytes.

    Args:
        path: the file.
        error: what is raised.
        what: the kind of file, for the error.
        largest: the largest size.
    """
    try:
        with path.open("rb") as file:
            content = file.read(min(largest, os.fstat(file.fileno()).st_size or largest) + 1)
    except (OSError, ValueError) as problem:  # a ValueError if the path holds a null character
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"{path}: the {what} cannot be read ({reason}). Check the path.") from problem
    if len(content) > largest:
        raise error(
            f"{path}: more than {largest / 1024**2:.0f} MiB, too large for a {what}. "
            "Is it the right file?"
        )
    return content


def read_json(path: Path, error: type[UnmemorizeError], what: str) -> dict[str, Any]:
    """Read a JSON object from a file."""
    return parse_json(read_bytes(path, error, what), error, f"{path}: not a valid {what}")


def parse_json(
    text: bytes | str,
    error: type[UnmemorizeError],
    problem: str,
    way_out: str = "Make it again.",
) -> dict[str, Any]:
    """Parse a JSON object. NaN and infinities are refused, as the standard does."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number that JSON knows")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as reason:
        raise error(f"{problem} ({reason}). {way_out}") from reason
    if not isinstance(value, dict):
        raise error(f"{problem} (it holds a {type(value).__name__}, not an object). {way_out}")
    return value


def refuse_unprintable(
    content: Mapping[str, Any], error: type[UnmemorizeError], path: str, way_out: str
) -> None:
    """Refuse texts that would control a terminal, or that cannot be encoded as UTF-8.

    Args:
        content: a JSON object.
        error: what is raised.
        path: the name of its file, for the error.
        way_out: how the message ends.

    Raises:
        UnmemorizeError: the given ``error``.
    """
    try:
        if all(map(_is_printable, _texts(content))):
            return
        problem = "a text holds control characters or half of a character"
    except RecursionError:
        problem = "it is nested too deeply"
    raise error(f"{path}: {problem}. {way_out}")


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _is_printable(text: str) -> bool:
    """Tell whether a text holds no control character but line breaks and tabs, and no surrogate."""
    return all(
        character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs")
        for character in text
    )


def to_json(record: Any) -> Any:
    """Turn a typed record into plain JSON values; types of ours say how by ``to_json``.

    Args:
        record: a dataclass instance of standard types, or of types with a method ``to_json``.
    """
    return msgspec.to_builtins(record, enc_hook=_encoded)


def from_json(
    cls: type[Record], value: Any, error: type[UnmemorizeError], problem: str, way_out: str
) -> Record:
    """Make a typed record from plain JSON values, checked field by field.

    Args:
        cls: a dataclass. Fields of types with a class method ``from_json`` are made by that.
        value: what `to_json` returned.
        error, problem, way_out: what is raised where a value is missing, unknown or of another
            type, what the message begins with, and how it ends.

    Raises:
        UnmemorizeError: the given ``error``.
    """
    try:
        record = msgspec.convert(value, cls, dec_hook=_decoded)
        if unknown := value.keys() - {field.name for field in fields(cast(Any, cls))}:
            raise msgspec.ValidationError(f"unknown field {min(unknown)!r}")
        return record
    except (msgspec.ValidationError, UnmemorizeError) as reason:
        raise error(f"{problem} ({reason}). {way_out}") from reason


def _encoded(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return value.to_json()


def _decoded(cls: Any, value: Any) -> Any:
    if cls is Path:
        return Path(value)
    return cls.from_json(value)


def hash_texts(texts: Iterable[str]) -> str:
    """Return the SHA-256 of a sequence of texts as hexadecimal. Their order counts."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
