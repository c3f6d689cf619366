"""The command ``mitigate``: what it says before the work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_model import model_words, save_inputs

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="folder", scope="module")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inputs(tmp_path_factory.mktemp("mitigate"))


def test_a_dry_run_counts_and_starts_nothing(cli: Cli, folder: Path) -> None:
    """A copy of the model in one file takes its place on the disk, too."""
    words = ("mitigate", folder / "prompts.csv", *model_words(folder), "-o", folder / "run")
    code, out, err = cli(*words, "--dry-run")
    assert code == 0, err
    assert "2 suspects, if all are memorized" in out
    assert not (folder / "run").exists()
    (single,) = (folder / "model" / "unet").glob("*.safetensors")
    disks = []
    for more in ((), ("--single-file", single)):
        code, out, err = cli(*words, "--dry-run", "--json", *more)
        assert code == 0, err
        disks.append(json.loads(out)["disk"])
    assert disks[1] - disks[0] == single.stat().st_size
