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
