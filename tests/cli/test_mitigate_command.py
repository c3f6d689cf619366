"""The command ``mitigate``: what it says before the work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_model import model_words, save_inputs

from mitigated_run import mitigated_run
from unmemorize.cli import _console, mitigate
from unmemorize.mitigation import Copies, MitigationResult

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="folder", scope="module")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inputs(tmp_path_factory.mktemp("mitigate"))


def test_a_dry_run_counts_and_starts_nothing(
    cli: Cli, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy of the model in one file takes its place on the disk, too."""
    words = ("mitigate", folder / "prompts.csv", *model_words(folder), "-o", folder / "run")
    code, out, err = cli(*words, "--dry-run")
    assert code == 0, err
    assert "made for the 64 x 64 images of the bundled model" in caplog.text
    code, _, err = cli(*words, "--dry-run", "--sscd", folder / "none.pt")
    assert code == 1
    assert "none.pt: there is no such file. Download it first: unmemorize fetch sscd" in err
    assert "2 suspects, if all are memorized" in out
    assert not (folder / "run").exists()
    (single,) = (folder / "model" / "unet").glob("*.safetensors")
    disks = []
    for more in ((), ("--single-file", single)):
        code, out, err = cli(*words, "--dry-run", "--json", *more)
        assert code == 0, err
        disks.append(json.loads(out)["disk"])
    assert disks[1] - disks[0] == single.stat().st_size


def test_each_verdict_is_shown_with_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No copy in a few images says little."""
    monkeypatch.setattr(_console.console, "_width", 80)
    result = MitigationResult.load(mitigated_run(tmp_path))
    first, second, third, *others = result.outcomes
    outcomes = (
        replace(first, status="not removed", verdict="-", after=Copies(12, 12), bound=1.0),
        replace(second, status="removed", verdict="-", after=Copies(0, 72), bound=0.04994),
        replace(third, status="reduced", verdict="-", after=Copies(0, 10), bound=0.25887),
        *others,
    )
    with _console.console.capture() as printed:
        mitigate._print_verdicts(replace(result, outcomes=outcomes), 0.95)
    lines = printed.get().splitlines()
    assert max(map(len, lines)) <= 80
    shown = {
        status: line
        for line in lines
        for status in ("not removed", "removed", "reduced")
        if line.strip().startswith(status)
    }
    assert shown["removed"].split()[1:5] == ["3/4", "0/72", "5.0", "%"]
    assert shown["reduced"].split()[1:5] == ["3/4", "0/10", "25.9", "%"]
    assert " 100.0 % " in shown["not removed"]
    assert "not tested  " in "".join(lines)
    assert "copy rate, at 95 % confidence over the whole search" in " ".join(lines[-2:])


def test_too_few_fresh_images_are_refused_before_any_work(cli: Cli, tmp_path: Path) -> None:
    for words, fewest in (((), 72), (("--quick",), 10), (("--alpha", 0.1), 36)):
        call = ("mitigate", "-o", tmp_path / "run", "--fresh-images", fewest - 1, *words)
        code, _, err = cli(*call, "--dry-run")
        assert (code, f"a certificate needs at least {fewest} fresh" in err) == (1, True)
        assert not (tmp_path / "run").exists()
