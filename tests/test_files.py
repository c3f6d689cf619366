"""Files that are written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unmemorize import RunError
from unmemorize._files import atomic_file, atomic_write, write_tensors


def write(path: Path) -> None:
    atomic_write(path, "new", RunError)


def write_pieces(path: Path) -> None:
    with atomic_file(path, RunError) as file:
        file.write(b"new")


def write_weights(path: Path) -> None:
    write_tensors(path, {"weight": torch.ones(2)}, RunError)


WRITERS = (write, write_pieces, write_weights)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_replaces_an_older_one(tmp_path: Path, writer: Callable[[Path], None]) -> None:
    path = tmp_path / "new" / "file"
    writer(path)
    content = path.read_bytes()
    path.write_bytes(b"old")
    writer(path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_halves_of_characters_are_written_out(tmp_path: Path) -> None:
    """As in the name of a file that is no UTF-8."""
    text = json.dumps({"path": "caf\udce9", "other": "é"}, ensure_ascii=False)
    atomic_write(tmp_path / "file", text, RunError)
    written = (tmp_path / "file").read_bytes()
    assert written == b'{"path": "caf\\udce9", "other": "\xc3\xa9"}'
    assert json.loads(written) == {"path": "caf\udce9", "other": "é"}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_is_not_taken_for_a_file(
    tmp_path: Path, writer: Callable[[Path], None], linked: bool
) -> None:
    """Nothing is written into it under a name that nobody knows."""
    folder = named = tmp_path / "folder"
    folder.mkdir()
    if linked:
        named = tmp_path / "link"
        named.symlink_to(folder)
    with pytest.raises(RunError, match=rf"{named}: is a folder\. Name a file\."):
        writer(named)
    assert not list(folder.iterdir())
    assert set(tmp_path.iterdir()) == {folder, named}
