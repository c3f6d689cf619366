"""The command ``audit``: what it says before the work, what it prints, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from architectures import make
from colours import noise
from records import localization, localized_run
from unmemorize import Model, NeuronFile, Neurons, Prompt, Run

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="folder", scope="module")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a prompt with its image, two controls, and neurons that are off."""
    folder = tmp_path_factory.mktemp("audit")
    pipe = make("Stable Diffusion")
    pipe.save_pretrained(folder / "model")
    (folder / "controls").mkdir()
    for name, seed in (("known.png", 1), ("controls/a.png", 2), ("controls/b.png", 3)):
        noise(seed, (32, 32)).save(folder / name)
    prompt = {"prompt": "red cat", "images": ["known.png"]}
    (folder / "prompts.jsonl").write_text(json.dumps(prompt))
    model = Model.load(str(folder / "model"), device="cpu")
    NeuronFile.of(model, Neurons({LAYER: [0, 1]})).save(folder / "neurons.json")
    return folder


def words(folder: Path, *more: object, run: Path | None = None) -> list[object]:
    return [
        *("audit", "--model", folder / "model", "--device", "cpu"),
        *("--controls", folder / "controls", "-o", run or folder / "run", *more),
    ]


def test_a_dry_run_counts_and_starts_nothing(cli: Cli, folder: Path) -> None:
    audited = (folder / "neurons.json", "--prompts", folder / "prompts.jsonl")
    code, out, err = cli(*words(folder, *audited, "--dry-run", "--steps", 10))
    assert code == 0, err
    # one image in the arms edited, unedited and random, two controls, four ordinary images
    assert "9 images in all arms" in out
    assert "the smallest p of 1 image against 2 controls is 0.33" in out
    generated = 4 * 10 * 2
    for name, samples in {
        "L0": generated,
        "L4": 25 * 8 * 3 + 4 * generated,
        "L5": 50 * (1 + 6) + 2 * generated,
    }.items():
        assert f"{name} {9 * samples}" in " ".join(out.replace("│", " ").split())
    assert "Fewer --levels and a lower --max-steps take less." in out
    assert not (folder / "run").exists()


@pytest.mark.parametrize("asked", ["edit", "image"])
def test_a_dry_run_refuses_controls_that_are_audited(cli: Cli, folder: Path, asked: str) -> None:
    """Like the run that it speaks about."""
    own = folder / "own"
    own.mkdir(exist_ok=True)
    noise(1, (32, 32)).save(own / "known.bmp")
    options = ("--prompts", folder / "prompts.jsonl")
    if asked == "image":
        options = ("--image", folder / "known.png")
    model = ("--model", folder / "model", "--device", "cpu", "-o", folder / "run")
    code, out, err = cli("audit", *model, *options, "--controls", own, "--dry-run")
    assert code == 1
    assert "among the controls" in " ".join(err.split())
    assert "denoiser samples" not in out


def test_repeated_controls_are_told_and_not_counted(
    cli: Cli, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repeated = folder / "repeated"
    repeated.mkdir()
    for number in range(24):
        noise(2, (32, 32)).save(repeated / f"{number}.png")
    model = ("--model", folder / "model", "--device", "cpu", "-o", folder / "run")
    asked = ("--image", folder / "known.png", "--controls", repeated, "--dry-run")
    code, out, err = cli("audit", *model, *asked)
    assert code == 0, err
    assert "1 control: the smallest possible p is 0.5" in out
    assert "2 images in all arms" in out
    assert "23 of 24 controls show the same image" in caplog.text


@pytest.mark.parametrize("command", ["audit", "harden"])
def test_the_memorized_prompts_of_a_localization_are_taken(
    cli: Cli, folder: Path, tmp_path: Path, command: str
) -> None:
    """The others have nothing that could come back."""
    run = tmp_path / "localized"
    found = {
        0: localization("a dog", "VM", 0.1, None),
        1: localization("red cat", "VM", 0.9, Neurons({LAYER: [0, 1]})),
        2: localization("a tree", "VM", 0.2, None),
    }
    images = (folder / "known.png",)
    prompts = [Prompt(record.prompt, "VM", images=images) for record in found.values()]
    localized_run(run, prompts, found)
    (run / "neurons.json").write_bytes((folder / "neurons.json").read_bytes())
    code, out, err = cli(command, *words(folder, run, "--dry-run", "--steps", 10)[1:])
    assert code == 0, err
    # of audit as for a file of this prompt alone, of harden one image and two controls
    assert f"{9 if command == 'audit' else 3} images in all arms" in out


def test_an_audit_prints_a_verdict_for_each_attack(cli: Cli, folder: Path) -> None:
    audited = (folder / "neurons.json", "--prompts", folder / "prompts.jsonl")
    tried = ("--levels", "L0", "--steps", 1)
    code, out, err = cli(*words(folder, *audited, *tried))
    assert code == 0, err
    assert "never-trained" in out
    assert "at most 0.334 of cases" in out
    assert "Not tried: L1, L2, L3, L4, L5, L6" in out
    assert (folder / "run" / "audit.json").exists()
    page = (folder / "run" / "report.html").read_text()
    assert "Audit of model" in page
    assert "<td>L0</td><td>0</td>" in page


def test_images_are_warned_of_before_the_work(cli: Cli, folder: Path) -> None:
    asked = ("--image", folder / "known.png", "--dry-run")
    code, out, err = cli(*words(folder, *asked))
    assert code == 0, err
    assert "2 controls: the smallest possible p is 0.333" in out
    assert "nothing can be found among 1 image." in out
    assert "3 images in all arms" in out
    assert "A lower --max-steps takes less." in out


@pytest.mark.parametrize("option", [("--levels", "L4"), ("--twin", "x"), ("--prompts", "x")])
def test_options_that_say_nothing_about_images_are_refused(
    cli: Cli, folder: Path, option: tuple[str, ...]
) -> None:
    asked = ("--image", folder / "known.png", *option)
    code, _, err = cli(*words(folder, *asked))
    assert code == 1
    assert f"{option[0]} does not go with --image" in " ".join(err.split())


def test_other_images_of_the_same_folder_are_another_run(cli: Cli, folder: Path) -> None:
    """The option was refused, for a reason that does not concern it."""
    first = folder / "first"
    asked = ("--max-steps", 0, "--steps", 1, "--rate", 0.5)
    code, _, err = cli(*words(folder, "--image", folder / "known.png", *asked, run=first))
    assert code == 0, err
    noise(4, (32, 32)).save(folder / "other.png")
    other = ("--image", folder / "other.png", *asked)
    code, _, err = cli(*words(folder, *other, run=first))
    assert (code, "start another with --new-run" in " ".join(err.split())) == (1, True)
    code, out, err = cli(*words(folder, *other, "--new-run", run=first))
    assert code == 0, err
    assert f"report: {folder / 'first-2' / 'report.html'}" in out.replace("\n", "")
    made_with = [Run.load(folder / name).manifest.environment for name in ("first", "first-2")]
    assert [each.device for each in made_with] == ["cpu", "cpu"]


def test_an_image_that_is_missing_is_named_first(cli: Cli, folder: Path) -> None:
    code, out, err = cli(*words(folder, "--image", folder / "gone.png"))
    assert code == 1
    assert "gone.png: no such file" in "".join(err.split("\n"))
    assert "smallest possible p" not in out


def test_images_end_with_a_report(cli: Cli, folder: Path) -> None:
    """The page is written at once, and again by ``report``, which ``status`` names."""
    run = folder / "images"
    asked = ("--image", folder / "known.png", "--max-steps", 1, "--steps", 1)
    code, out, err = cli(*words(folder, *asked, run=run))
    assert code == 0, err
    page = run / "report.html"
    assert f"report: {page}" in out.replace("\n", "")
    before = page.read_text()
    assert "known.png" in before
    page.unlink()
    assert cli("report", run)[0] == 0
    assert page.read_text() == before
    code, out, err = cli("status", run)
    assert code == 0, err
    assert "Finished: image-audit of 1 image." in out
    assert f"report: {page}" in out.replace("\n", "")
    page.unlink()
    code, out, err = cli("status", run)
    assert f"unmemorize report {run}" in out + err


def test_an_audit_of_images_can_be_handed_over(cli: Cli, folder: Path) -> None:
    """The command says how, unless so few controls can find nothing."""
    run, pack = folder / "handed-over", folder / "evidence.zip"
    asked = ("--image", folder / "known.png", "--max-steps", 1, "--steps", 1, "--rate", 0.5)
    code, out, err = cli(*words(folder, *asked, run=run))
    assert code == 0, err
    assert f"unmemorize report {run} --pack evidence.zip" in (out + err).replace("\n", "")
    for redact in ((), ("--redact",)):
        code, out, err = cli("report", run, "--pack", pack, *redact)
        assert code == 0, err
        code, out, err = cli("verify", pack)
        assert code == 0, err
        assert "The records do not tell" not in out
        assert ("private images among them" in out) == bool(redact)


def test_a_folder_without_an_edit_is_refused(cli: Cli, folder: Path) -> None:
    code, _, err = cli(*words(folder, folder / "controls"))
    assert code == 1
    assert "no edit.json and no neurons.json" in err
