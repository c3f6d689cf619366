"""Downloads: published weights, and training images by their published addresses.

They are by hand because pooch can neither resume an interrupted download nor stop at a size limit.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from unmemorize._errors import FetchError, MetricError
from unmemorize._files import atomic_write
from unmemorize._paths import exists, is_folder
from unmemorize._prompts import Prompt
from unmemorize.engines import Progress, silent
from unmemorize.metrics._read_image import open_image, to_rgb
from unmemorize.metrics._references import reference_name

LARGEST = 2 * 1024**3
"""Bytes, more than any published network that metrics use."""
LARGEST_IMAGE = 64 * 1024**2
"""Bytes, more than any training image."""
_CHUNK = 1024**2
_TIMEOUT = 30
"""Seconds without an answer after which a server counts as unreachable."""
_IN_ADDRESSES = "!#$%&'()*+,/:;=?@[]~"
"""Characters that stay as they are in an address. A percent sign begins one that was quoted."""
_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416
_SUFFIXES = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
}
"""Formats whose files are kept as they are. Others are converted to PNG."""


@dataclass(frozen=True)
class Fetched:
    """The outcome of `fetch_images`.

    Args:
        available: how many prompts have an image now.
        failed: why others have none, by the index of the prompt.
    """

    available: int
    failed: dict[int, str]


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    largest: int = LARGEST,
    progress: Progress = silent,
) -> None:
    """Download a file, or resume its download from ``PATH.part``.

    Args:
        url: an http or https address.
        path: where to put the file. A file that is already there is kept if it has the expected
            hash, or if none is expected.
        sha256: the expected hash, as hexadecimal.
        largest: the number of bytes at which to give up.
        progress: called with the bytes done, and their total if the server states it.

    Raises:
        FetchError: the address cannot be reached, the file is larger than allowed or has another
            hash, or it cannot be written.
    """
    path = Path(path)
    if is_folder(path):
        raise FetchError(f"{path}: is a folder. Name a file.")
    part = path.with_name(path.name + ".part")
    if exists(path) and (sha256 is None or _hash(path) == sha256.lower()):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _receive(url, part, largest, progress)
    except (OSError, HTTPException, ValueError) as problem:
        kept = part.stat().st_size if exists(part) else 0
        raise FetchError(
            f"{url}: cannot be downloaded ({problem}). "
            f"{kept} bytes are kept, and the same command resumes from there."
        ) from problem
    if sha256 is not None and (digest := _hash(part)) != sha256.lower():
        part.unlink()
        raise FetchError(
            f"{url}: the file has SHA-256 {digest}, expected {sha256}. It was deleted. "
            "Try again, or find out who changed it."
        )
    os.replace(part, path)


def fetch_images(
    prompts: Iterable[Prompt], folder: str | Path, *, progress: Progress = silent
) -> Fetched:
    """Download the training images of prompts.

    The image of prompt 7 is called ``0007_NAME_HASH.jpg``, with the name in its address and a hash
    of the address, so `match_references` knows whose it is. Addresses of old data sets go stale, so
    a failure is noted and does not stop the rest. The same call again tries only what is missing.

    Args:
        prompts: prompts. Of several addresses the first one that answers is taken. Prompts without
            any are skipped.
        folder: where the images go.
        progress: called after each prompt.

    Raises:
        FetchError: the folder cannot be written.
    """
    folder = Path(folder)
    available = 0
    failed = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise FetchError(
            f"{folder}: cannot be written ({problem.strerror}). Choose another folder."
        ) from problem
    for index, prompt in enumerate(prompts):
        names = [reference_name(index, url) for url in prompt.urls]
        if any(any(folder.glob(f"{name}.*")) for name in names):
            available += 1
        elif names:
            problems = _fetch_first(prompt.urls, names, folder)
            if len(problems) < len(names):
                available += 1
            else:
                failed[index] = "; ".join(problems)
        progress(index + 1, None)
    return Fetched(available, failed)


def _fetch_first(urls: Sequence[str], names: Sequence[str], folder: Path) -> list[str]:
    """Fetch the first image that can be had, and return why those before it could not."""
    problems: list[str] = []
    for url, name in zip(urls, names, strict=True):
        try:
            _fetch_image(url, folder, name)
        except FetchError as problem:
            problems.append(str(problem))
        else:
            break
    return problems


def _fetch_image(url: str, folder: Path, name: str) -> None:
    try:
        content, suffix = _as_known_format(_receive_image(url), url)
    except MetricError as problem:
        raise FetchError(str(problem)) from problem
    except (OSError, HTTPException, ValueError) as problem:
        raise FetchError(f"{url}: {problem}") from problem
    atomic_write(folder / f"{name}.{suffix}", content, FetchError)


def _receive_image(url: str) -> bytes:
    data = io.BytesIO()
    with _open(url) as response:
        while chunk := response.read(_CHUNK):
            data.write(chunk)
            if data.tell() > LARGEST_IMAGE:
                raise FetchError(
                    f"{url}: larger than {LARGEST_IMAGE} bytes. "
                    "Download it by hand if it is an image."
                )
    return data.getvalue()


def _as_known_format(data: bytes, url: str) -> tuple[bytes, str]:
    """Return the content and the ending of an image file, converted to PNG if need be."""
    with open_image(io.BytesIO(data), url) as image:
        if image.format in _SUFFIXES:
            return data, _SUFFIXES[image.format]
        converted = io.BytesIO()
        to_rgb(image, url).save(converted, "PNG")
        return converted.getvalue(), "png"


def _receive(url: str, part: Path, largest: int, progress: Progress) -> None:
    """Append to a partial file what is missing."""
    received = part.stat().st_size if exists(part) else 0
    try:
        response = _open(url, received)
    except HTTPError as problem:
        if problem.code == _RANGE_NOT_SATISFIABLE:  # nothing is missing
            return
        raise
    with response:
        if response.status != _PARTIAL_CONTENT:  # the server sends everything again
            received = 0
        length = response.headers.get("Content-Length")
        total = received + int(length) if length else None
        with part.open("ab" if received else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                received += len(chunk)
                progress(received, total)
                if received > largest:
                    raise OSError(f"larger than {largest} bytes")
    if total is not None and received < total:
        raise OSError(f"the connection broke after {received} of {total} bytes")


def _open(url: str, start: int = 0) -> Any:
    """Ask for a file from this byte on. What urlopen returns has no public type."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise OSError("only http and https addresses are followed")
    headers = {"User-Agent": "unmemorize"} | ({"Range": f"bytes={start}-"} if start else {})
    # lists hold addresses as people write them, with spaces and letters beyond ASCII
    quoted = quote(url.strip(), safe=_IN_ADDRESSES)
    return urlopen(Request(quoted, headers=headers), timeout=_TIMEOUT)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
