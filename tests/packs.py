"""Packs of evidence as a forger changes them: with hashes that fit."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Files = dict[str, bytes]
"""The files of a pack by name."""
Change = Callable[[Files], Files]


def read(pack: Path) -> Files:
    """The files of a pack, its list among them."""
    with zipfile.ZipFile(pack) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(files: Files, pack: Path, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write files as a pack."""
    with zipfile.ZipFile(pack, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return pack


def unpack(pack: Path, folder: Path) -> Path:
    """The folder with the files of a pack."""
    with zipfile.ZipFile(pack) as archive:
        archive.extractall(folder)
    return folder


def forged(files: Files, name: str, content: bytes) -> Files:
    """The pack with another file and the hash that fits it, as a forger would make it."""
    contents = json.loads(files["evidence.json"])
    contents["files"][name]["sha256"] = hashlib.sha256(content).hexdigest()
    return files | {name: content, "evidence.json": json.dumps(contents).encode()}


def replaced(name: str, old: str, new: str) -> Change:
    """The pack with another text in a file, once."""

    def change(files: Files) -> Files:
        text = files[name].decode()
        assert old in text
        return forged(files, name, text.replace(old, new, 1).encode())

    return change


def listed(change: Callable[[Any], Any]) -> Change:
    """The pack with another list of its files."""

    def changed(files: Files) -> Files:
        contents = json.loads(files["evidence.json"])
        change(contents)
        return files | {"evidence.json": json.dumps(contents).encode()}

    return changed


def put(name: str, content: bytes) -> Change:
    """The pack with another content of a file."""
    return lambda files: forged(files, name, content)
