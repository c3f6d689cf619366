"""Downloads that can be resumed and are checked: published weights, and training images by their published addresses."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from PIL import Image

from unmemorize._errors import FetchError
from unmemorize._files import atomic_write
from unmemorize._progress import Progress, silent
from unmemorize._prompts import Prompt

LARGEST = 2 * 1024**3
LARGEST_IMAGE = 64 * 1024**2
_CHUNK = 1024**2
_SECONDS = 30
_NOT_A_RANGE = 416
_SUFFIXES = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
}
"""Formats that are kept as they come; others are written as PNG."""


@dataclass(frozen=True)
class Fetched:
    """What became of the training images of some prompts: how many are there now, and what the others failed for, by number."""

    there: int
    failed: dict[int, str]


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    largest: int = LARGEST,
    progress: Progress = silent,
) -> None:
    """Download a file; what an interrupted download has brought stays in ``PATH.part``, and the next call goes on from there.

    Args:
        url: an http or https address.
        path: where to put the file; one that is there already is kept when its hash is right, or none is asked for.
        sha256: the expected hash, as hexadecimal.
        largest: bytes at which to give up.
        progress: called with the bytes done and, where the server says so, in all.

    Raises:
        FetchError: the address cannot be reached, the file is larger than allowed or has another hash, or it cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise FetchError(f"{path}: is a folder. Name a file.")
    part = path.with_name(path.name + ".part")
    if path.exists() and (sha256 is None or _hash(path) == sha256.lower()):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _receive(url, part, largest, progress)
    except (OSError, HTTPException, ValueError) as problem:
        kept = part.stat().st_size if part.exists() else 0
        raise FetchError(
            f"{url}: cannot be downloaded ({problem}). {kept} bytes are kept; the same command goes on from there."
        ) from problem
    if sha256 is not None and (found := _hash(part)) != sha256.lower():
        part.unlink()
        raise FetchError(
            f"{url}: the file has SHA-256 {found}, expected {sha256}. It was deleted; try again, or look who changed it."
        )
    os.replace(part, path)


def fetch_images(
    prompts: Iterable[Prompt], folder: str | Path, *, progress: Progress = silent
) -> Fetched:
    """Download the training images of prompts by their addresses, as ``0001_name.jpg`` for the first prompt and so on.

    Addresses of old data sets go stale: a failure is noted, not fatal, and the same call again tries only what is missing.

    Args:
        prompts: their ``url`` is followed; those without are passed over.
        folder: where the images go.
        progress: called after each prompt.

    Raises:
        FetchError: the folder cannot be written.
    """
    folder, there, failed = Path(folder), 0, {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise FetchError(
            f"{folder}: cannot be written ({problem.strerror}). Choose another folder."
        ) from problem
    for number, prompt in enumerate(prompts, 1):
        if any(folder.glob(f"{number:04d}_*")):
            there += 1
        elif prompt.url:
            try:
                _fetch_image(prompt.url, folder, number)
                there += 1
            except FetchError as problem:
                failed[number] = str(problem)
        progress(number, None)
    return Fetched(there, failed)


def _fetch_image(url: str, folder: Path, number: int) -> None:
    data = io.BytesIO()
    try:
        with _open(url) as response:
            while chunk := response.read(_CHUNK):
                data.write(chunk)
                if data.tell() > LARGEST_IMAGE:
                    raise FetchError(
                        f"{url}: larger than {LARGEST_IMAGE} bytes. Download it by hand if it is an image."
                    )
        with Image.open(data) as image:
            image.load()
            content, suffix = data.getvalue(), _SUFFIXES.get(image.format or "", "png")
            if image.format not in _SUFFIXES:
                converted = io.BytesIO()
                image.convert("RGB").save(converted, "PNG")
                content = converted.getvalue()
    except (
        OSError,
        HTTPException,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as problem:
        raise FetchError(f"{url}: {problem}") from problem
    stem = re.sub(r"[^A-Za-z0-9-]+", "-", Path(urlsplit(url).path).stem)[:40].strip("-") or "image"
    atomic_write(folder / f"{number:04d}_{stem}.{suffix}", content, FetchError)


def _receive(url: str, part: Path, largest: int, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    try:
        response = _open(url, have)
    except HTTPError as problem:
        if problem.code == _NOT_A_RANGE:  # all of it is there
            return
        raise
    with response:
        have = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress(have, total)
                if have > largest:
                    raise OSError(f"larger than {largest} bytes")
    if total is not None and have < total:
        raise OSError(f"the connection broke after {have} of {total} bytes")


def _open(url: str, start: int = 0) -> Any:  # what urlopen returns has no public name
    if urlsplit(url).scheme not in ("http", "https"):
        raise OSError("only http and https addresses are followed")
    headers = {"User-Agent": "unmemorize"} | ({"Range": f"bytes={start}-"} if start else {})
    return urlopen(Request(url, headers=headers), timeout=_SECONDS)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
