"""Paths that a user names, looked at without an error of the system."""

from __future__ import annotations

import os
from pathlib import Path


def exists(path: Path) -> bool:
    """Tell whether a path of the user exists.

    One that cannot be looked at does not: its name may be too long, or its folder closed. The
    methods of `Path` raise an OSError then.
    """
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: Path) -> bool:
    """Tell whether a path of the user is a folder; see `exists`."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Tell whether a path of the user is a file; see `exists`."""
    return os.path.isfile(path)  # noqa: PTH113


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder of the user, sorted; nothing if it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError):
        return []


def is_utf8(text: str) -> bool:
    r"""Tell whether a text can be written as UTF-8. Names of files may hold halves of characters.

    Examples:
        >>> is_utf8("caf\u00e9"), is_utf8("caf\udce9")
        (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
