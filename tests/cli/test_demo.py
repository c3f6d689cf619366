from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from records import SMALL_MITIGATION
from unmemorize import Run, testbed, verify_evidence
from unmemorize.cli import demo
from unmemorize.mitigation import MitigationResult, MitigationSettings

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo on few prompts, few images and short generations."""
    entries = tuple(
        next(entry for entry in testbed.planted() if entry.mode == mode)
        for mode in ("memory", "rare")
    )
    monkeypatch.setattr(demo, "ORDINARY", 1)
    monkeypatch.setattr(testbed, "planted", lambda: entries)
    monkeypatch.setattr(demo, "STEPS", 4)
    settings = replace(SMALL_MITIGATION, compare=False, guides=2)
    monkeypatch.setattr(MitigationSettings, "quick", lambda: settings)


@pytest.mark.usefixtures("short")
def test_demo_ends_with_verdicts_an_edited_model_and_a_report(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, out, _ = cli("demo", "-o", folder)
    assert code == 0
    result = MitigationResult.load(Run.load(folder))
    memorized, ordinary = result.outcomes
    assert (memorized.prompt, memorized.before is not None) == (
        testbed.planted()[0].prompt.text,
        True,
    )
    assert ordinary.status in ("not tested", "not confirmed")
    assert result.headline in out
    assert f"{result.ordinary.changed} of 19 ordinary images changed" in out  # type: ignore[union-attr]
    assert str(folder / "report.html") in out
    page = (folder / "report.html").read_text()
    assert result.headline in page
    assert memorized.verdict in page
    assert page.count('alt="training image of') == 2  # in front, and among all pictures
    assert page.count('alt="after, noise') >= 3
    assert verify_evidence(pack_of(cli, folder)).numbers > 50
    assert (folder / "edited" / "model_index.json").exists()
    assert [path.name for path in (folder / "regions").iterdir()] == ["00000.png"]
    assert list((folder / "lora").glob("*.safetensors"))
    records = [path for path in folder.glob("*.jsonl") if path.name != "prompts.jsonl"]
    written = {path: path.stat().st_mtime_ns for path in records}
    assert len(written) > 5
    assert cli("demo", "-o", folder)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in records} == written


@pytest.mark.usefixtures("short")
def test_a_demo_of_other_settings_is_refused_with_a_way_that_works(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no --new-run. An older version may have left the folder in the default place."""
    stopped: list[object] = []
    monkeypatch.setattr("unmemorize.cli.demo.run_and_print", lambda *_: stopped.append(0))
    assert cli("demo", "-o", tmp_path / "run")[0] == 0
    monkeypatch.setattr(demo, "STEPS", 6)
    code, _, err = cli("demo", "-o", tmp_path / "run")
    assert (code, "--new-run" in err) == (1, False)
    assert "or delete the folder, or name another one with -o." in " ".join(err.split())
    assert cli("demo", "-o", tmp_path / "other")[0] == 0
    assert len(stopped) == 2


def pack_of(cli: Cli, folder: Path) -> Path:
    pack = folder.with_suffix(".zip")
    assert cli("report", folder, "--pack", pack)[0] == 0
    return pack


def test_suspects_are_of_every_kind() -> None:
    planted = {entry.prompt.text: entry for entry in testbed.planted()}
    few = demo.suspects(full=False)
    chosen = [planted[prompt.text] for prompt in few if prompt.text in planted]
    assert len(chosen) <= demo.FEW
    assert len(few) - len(chosen) == demo.ORDINARY
    assert {entry.mode for entry in chosen} >= {"memory", "natural"}
    assert {entry.prompt.kind for entry in chosen} == {"VM", "TM"}
    everything = [prompt.text for prompt in demo.suspects(full=True)]
    assert everything[: -demo.ORDINARY] == [
        entry.prompt.text for entry in testbed.planted() if entry.mode != "rare"
    ]
