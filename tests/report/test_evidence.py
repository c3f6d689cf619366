"""Packs of evidence: whole, the same each time, and refused by name when anything was changed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from scipy.stats import binom

from mitigated_run import CONTROL, COUNT, DIGEST, copied_by_a_paraphrase, mitigated_run, rewritten
from packs import Change, Files, forged, listed, put, read, replaced, unpack, write
from records import LAYER, localized_run
from unmemorize import EvidenceError, Run, RunError, verify_evidence, write_evidence, write_report
from unmemorize.generation import EditFile, WeightEdit
from unmemorize.mitigation import MitigationResult, ordinary_change, read_ordinary
from unmemorize.mitigation._certificate import Certification
from unmemorize.report._evidence import read_evidence
from unmemorize.report._recomputed import recompute
from unmemorize.runs import hash_of_file, run_prompts

Cli = Callable[..., tuple[int, str, str]]


SAMPLED = ("ordinary_control", "candidates.0.ordinary")
"""Numbers about the first three ordinary images alone."""


def with_ordinary_copies(run: Run, copies: dict[int, list[int] | None], caption: str) -> None:
    """Have ordinary images score above levels of suspects, and one caption be another."""
    confirmations = run.folder / "confirmations.jsonl"
    records = [json.loads(line) for line in confirmations.read_text().splitlines()]
    for record in records:
        record["ordinary_copies"] = copies.get(record["index"], [])
    confirmations.write_text("".join(json.dumps(record) + "\n" for record in records))
    for path in run.folder.glob("ordinary-*.jsonl"):
        path.write_text(path.read_text().replace('"caption 5"', json.dumps(caption)))


FIRST_CARD = '<div class="wall">'
CARD = '<article class="card" id="prompt-{}"><span class="tag good">✓ removed</span></article>'
"""A card that a forger adds."""


def rows(change: Callable[[list[list[str]]], list[list[str]]]) -> Change:
    """The pack with other rows in the table."""

    def changed(files: Files) -> Files:
        text = io.StringIO()
        table = list(csv.reader(io.StringIO(files["report.csv"].decode())))
        csv.writer(text).writerows(change(table))
        return forged(files, "report.csv", text.getvalue().encode())

    return changed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, str]:
    """A run, its pack, and the hash of the pack."""
    folder = tmp_path_factory.mktemp("evidence")
    run = mitigated_run(folder)
    pack = folder / "evidence.zip"
    return run, pack, write_evidence(run, pack)


def test_a_pack_is_whole_and_its_numbers_follow(made: tuple[Run, Path, str]) -> None:
    _, pack, digest = made
    assert digest == hashlib.sha256(pack.read_bytes()).hexdigest()
    check = verify_evidence(pack)
    assert check.sha256 == digest
    assert check.files == len(read(pack)) - 1
    assert check.numbers > 150
    assert check.unchecked == ()
    assert not check.redacted


def test_each_prompt_has_the_verdict_of_its_own_last_attempt(
    made: tuple[Run, Path, str],
) -> None:
    """Prompt 1 was doubtful, so it alone was tested again, at half the error."""
    files = read(made[1])
    manifest = json.loads(files["manifest.json"])
    manifest["settings"]["settings"]["declared"] = False
    name = f"certificate-{{}}-{DIGEST}.jsonl"
    first = files[name.format(1)].splitlines(keepends=True)
    doubtful = json.loads(first[1]) | {"scores": [0.7] + [0.1] * 11, "copies": 1}
    files |= {
        "manifest.json": json.dumps(manifest).encode(),
        name.format(1): b"".join((first[0], json.dumps(doubtful).encode() + b"\n", first[2])),
        name.format(2): first[1],
    }
    numbers = recompute(files).numbers
    # 1 - .0125^(1/12) = .3059 and 1 - .025^(1/12) = .2646
    bound = "removed (0 of 12, at most {} %; whole search 95 %)"
    assert numbers["prompts.1.verdict"] == bound.format("30.6 % at 98.75")
    assert numbers["prompts.2.verdict"] == bound.format("26.5 % at 97.5")
    assert numbers["prompts.0.verdict"] == "not removed (6 of 12)"

    # all images of the first certificate of each prompt count, also those of one that passed later
    assert (numbers["after.copies"], numbers["after.images"]) == (7, 36)


@pytest.mark.parametrize(
    ("confidence", "status"), [({}, "reduced"), ({"confidence": 0.975}, "not removed")]
)
def test_a_reduction_is_told_as_it_was_when_the_run_was_made(
    made: tuple[Run, Path, str], confidence: dict[str, float], status: str
) -> None:
    """0 of 12 after 3 of 4: at most .221 at 95 %, .265 at 97.5 %; at least .249 before.

    Earlier versions, which record no confidence, took that of the whole search.
    """
    files = read(made[1])
    manifest = json.loads(files["manifest.json"])
    manifest["settings"]["settings"] |= {"declared": False, "alpha": 0.2}
    result = json.loads(files["mitigation.json"])
    for outcome in result["outcomes"]:
        del outcome["confidence"]
        outcome |= confidence
    files |= {
        "manifest.json": json.dumps(manifest).encode(),
        "mitigation.json": json.dumps(result).encode(),
    }
    numbers = recompute(files).numbers
    assert [numbers[f"prompts.{index}.status"] for index in range(3)] == [
        "not removed",
        *[status] * 2,
    ]
    assert numbers[f"counts.{status}"] == 2 + (status == "not removed")


@pytest.mark.parametrize(("version", "counted"), [(4, 19), (5, 17)])
def test_memorized_prompts_among_ordinary_captions_are_no_side_effect(
    made: tuple[Run, Path, str], version: int, counted: int, tmp_path: Path
) -> None:
    """Earlier versions counted their images."""
    run = Run.load(shutil.copytree(made[0].folder, tmp_path / "run"))
    memorized = {prompt.text for prompt in run_prompts(run)[1:3]}
    files = read(made[1])
    for kind in ("before", DIGEST, CONTROL):
        name = f"ordinary-{kind}.jsonl"
        for number, text in enumerate(sorted(memorized)):
            files[name] = files[name].replace(f'"caption {number}"'.encode(), f'"{text}"'.encode())
        (run.folder / name).write_bytes(files[name])
    reported = json.loads(files["report.json"])
    files["report.json"] = json.dumps(
        reported | {"schema": f"unmemorize.report/{version}"}
    ).encode()
    before, after = (read_ordinary(run, f"ordinary-{kind}", 19) for kind in ("before", DIGEST))
    left_out = memorized if version > 4 else set()
    change = ordinary_change(run, before, after, memorized=left_out)
    numbers = recompute(files).numbers
    assert numbers["ordinary.changed.images"] == counted == change.images
    assert numbers["ordinary.changed.copies"] == change.changed
    for name in ("similarity", "worst", "correlation", "alignment_before", "alignment_after"):
        assert numbers[f"ordinary.{name}"] == pytest.approx(getattr(change, name), abs=1e-6)


def test_paraphrases_of_suspects_that_are_not_confirmed_are_passed_over(
    made: tuple[Run, Path, str],
) -> None:
    """They have a number, too: records count the paraphrases of all suspects."""
    files = read(made[1])
    before = recompute(files).numbers
    for name in ("before", DIGEST):
        (line,) = files[f"paraphrases-{name}.jsonl"].splitlines()
        moved = json.dumps(json.loads(line) | {"index": 1}).encode() + b"\n"
        files[f"paraphrases-{name}.jsonl"] = moved
    first, *prompts = files["prompts.jsonl"].splitlines(keepends=True)
    rephrased = json.dumps(json.loads(first) | {"paraphrases": ["so to speak"]}).encode() + b"\n"
    first, *others = files["confirmations.jsonl"].splitlines(keepends=True)
    cleared = json.dumps(json.loads(first) | {"scores": [0.1] * 4}).encode() + b"\n"
    files |= {
        "prompts.jsonl": b"".join((rephrased, *prompts)),
        "confirmations.jsonl": b"".join((cleared, *others)),
    }
    after, name = recompute(files).numbers, "prompts.1.paraphrases_after.copies"
    assert after["prompts.0.status"] == "not confirmed"
    assert after[name] == before[name]


def test_a_verdict_on_one_prompt_does_not_depend_on_what_is_said_of_all(
    made: tuple[Run, Path, str],
) -> None:
    """For --together more images are drawn, of which a few may copy, at the error of one prompt."""
    files = read(made[1])
    manifest = json.loads(files["manifest.json"])
    settings = manifest["settings"]["settings"]
    settings |= {"declared": True, "together": True}
    plan = Certification(
        settings["alpha"], 1 - settings["confidence"], single=True, prompts=3
    ).plan(1)
    images = next(n for n in range(plan.seeds, 999) if binom.cdf(1, n, plan.alpha) <= plan.delta)
    assert binom.cdf(1, images, plan.alpha) > plan.delta / 3
    name = f"certificate-1-{DIGEST}.jsonl"
    lines = files[name].splitlines(keepends=True)
    record = json.loads(lines[1]) | {"scores": [0.7] + [0.1] * (images - 1), "copies": 1}
    files |= {
        "manifest.json": json.dumps(manifest).encode(),
        name: b"".join((lines[0], json.dumps(record).encode() + b"\n", lines[2])),
    }
    assert recompute(files).numbers["prompts.1.verdict"].startswith(f"removed (1 of {images}, ")


def test_the_same_run_gives_the_same_bytes(made: tuple[Run, Path, str], tmp_path: Path) -> None:
    run, pack, digest = made
    assert write_evidence(run, tmp_path / "again.zip") == digest
    assert (tmp_path / "again.zip").read_bytes() == pack.read_bytes()


def test_what_a_pack_holds(made: tuple[Run, Path, str]) -> None:
    run, pack, _ = made
    files = read(pack)
    for path in [*run.folder.glob("*.jsonl"), *run.folder.glob("report.*")]:
        assert path.name in files
        if path.name != "prompts.jsonl":
            assert files[path.name] == path.read_bytes()
    training = (run.folder.parent / "private" / "training-1.png").read_bytes()
    assert files[f"references/{hashlib.sha256(training).hexdigest()}.png"] == training
    assert files["before/00000_00.png"] == (run.folder / "before/00000_00.png").read_bytes()
    assert not any(name.startswith("search-aaaaaaaaaa/") for name in files)
    left_out = json.loads(files["evidence.json"])["left_out"]
    given_up = run.folder / "search-aaaaaaaaaa" / "00000_00.png"
    assert left_out["search-aaaaaaaaaa/00000_00.png"] == {
        "sha256": hashlib.sha256(given_up.read_bytes()).hexdigest(),
        "why": "the report does not show it",
    }
    assert str(run.folder.parent).encode() not in files["prompts.jsonl"]


def test_an_unpacked_pack_is_a_run(made: tuple[Run, Path, str], tmp_path: Path) -> None:
    run, pack, _ = made
    page = write_report(unpack(pack, tmp_path / "unpacked")).read_bytes()
    assert page == (run.folder / "report.html").read_bytes()


@pytest.mark.parametrize("redact", [False, True])
def test_a_pack_of_an_unpacked_pack_is_the_same(
    made: tuple[Run, Path, str], tmp_path: Path, redact: bool
) -> None:
    """With the hashes of what it has left out, the edited model among it."""
    run = Run.load(shutil.copytree(made[0].folder, tmp_path / "run" / "run"))
    shutil.copytree(made[0].folder.parent / "private", tmp_path / "run" / "private")
    for name in ("edited/unet/a.safetensors", "edited/unet.json", "edited.safetensors"):
        (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / name).write_bytes(name.encode())
    (run.folder / "regions").mkdir()
    Image.new("L", (8, 8)).save(run.folder / "regions" / "00001.png")
    digest = write_evidence(run, tmp_path / "evidence.zip", redact=redact)
    unpacked = unpack(tmp_path / "evidence.zip", tmp_path / "unpacked")
    assert write_evidence(unpacked, tmp_path / "again.zip", redact=redact) == digest
    left_out = json.loads(read(tmp_path / "again.zip")["evidence.json"])["left_out"]
    assert left_out["edited.safetensors"]["why"] == "the edited model is kept apart"
    assert verify_evidence(tmp_path / "again.zip").redacted == redact


def test_an_unpacked_pack_can_be_redacted(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    write_evidence(run, tmp_path / "open.zip")
    unpacked = unpack(tmp_path / "open.zip", tmp_path / "unpacked")
    digest = write_evidence(run, tmp_path / "redacted.zip", redact=True)
    assert write_evidence(unpacked, tmp_path / "again.zip", redact=True) == digest


def test_an_unpacked_pack_cannot_show_what_it_lacks(tmp_path: Path, cli: Cli) -> None:
    write_evidence(mitigated_run(tmp_path), tmp_path / "redacted.zip", redact=True)
    unpacked = unpack(tmp_path / "redacted.zip", tmp_path / "unpacked")
    for more in ((), ("--pack", tmp_path / "e.zip")):
        code, _, err = cli("report", unpacked, *more)
        assert (code, "comes from a redacted pack, which lacks 35 images" in err) == (1, True)
        assert "Add --redact" in err
    assert not (tmp_path / "e.zip").exists()
    (unpacked / "evidence.json").write_text("{}")
    with pytest.raises(EvidenceError, match=r"evidence.json: damaged.*Unpack the pack again"):
        write_report(unpacked)


def test_a_redacted_pack_does_not_say_where_training_images_were_found(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    rows = [json.loads(line) for line in (run.folder / "prompts.jsonl").read_text().splitlines()]
    rows[1] |= {"url": "https://a.example/private.png", "more_urls": ["https://b.example/private"]}
    run.write("prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for redact in (False, True):
        write_evidence(run, tmp_path / "e.zip", redact=redact)
        content = (tmp_path / "e.zip").read_bytes()
        assert [f"https://{each}.example".encode() in content for each in "ab"] == [not redact] * 2
        verify_evidence(tmp_path / "e.zip")


def test_training_images_may_lie_in_the_run_folder(tmp_path: Path) -> None:
    """They are packed once, and a redacted pack does not give their names."""
    run = mitigated_run(tmp_path)
    shutil.move(tmp_path / "private", run.folder / "private")
    listing = run.folder / "prompts.jsonl"
    listing.write_text(listing.read_text().replace("../private", "private"))
    for redact in (False, True):
        write_evidence(run, tmp_path / "evidence.zip", redact=redact)
        files = read(tmp_path / "evidence.zip")
        assert sum(name.startswith("references/") for name in files) == (0 if redact else 3)
        assert b"training-0" not in (tmp_path / "evidence.zip").read_bytes()


def test_a_caption_may_hold_any_separator_of_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own splitlines knows eleven of them, JSON lines only one."""
    separators = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    captions = [f"a cat{separator}on a mat" for separator in separators]
    monkeypatch.setattr("mitigated_run.texts", lambda _: [*captions, "a false alarm", "nothing"])
    run = mitigated_run(tmp_path / "made", memorized=len(captions))
    write_evidence(run, tmp_path / "evidence.zip")
    assert verify_evidence(tmp_path / "evidence.zip").unchecked == ()
    packed = read(tmp_path / "evidence.zip")["prompts.jsonl"].decode()
    rows = [json.loads(line) for line in packed.split("\n") if line]
    assert [row["text"] for row in rows[: len(captions)]] == captions


def test_a_pack_holds_the_tensors_that_its_edit_names(tmp_path: Path) -> None:
    """As after the training of a text encoder."""
    run = mitigated_run(tmp_path / "made")
    weights = torch.arange(6.0).reshape(2, 3)
    file = EditFile.load(run.folder / "edit.json")
    edit = WeightEdit({"text_encoder.layer.weight": weights})
    replace(file, edit=edit).save(run.folder / "edit.json")
    write_evidence(run, tmp_path / "evidence.zip")
    assert verify_evidence(tmp_path / "evidence.zip").unchecked == ()
    unpacked = unpack(tmp_path / "evidence.zip", tmp_path / "unpacked")
    found = MitigationResult.load(Run.load(unpacked)).file
    assert found is not None
    assert found.edit == edit


def test_each_look_at_an_edit_is_listed_once(made: tuple[Run, Path, str], tmp_path: Path) -> None:
    """Also where two shards made the records."""
    run = Run.load(shutil.copytree(made[0].folder, tmp_path / "run"))
    whole = read_evidence(run).tried
    looks = {(each.stage, each.edit, each.copies, each.images) for each in whole[0]}
    assert looks == {
        ("search", "a" * 10, 2, 2),
        ("search", DIGEST, 1, 2),
        ("search, again", DIGEST, 1, 2),
        ("certificate", DIGEST, 1, 1),
        ("count", DIGEST, 6, 12),
    }
    assert {each.stage: each.attempt for each in whole[0]}["certificate"] == 1
    path = run.folder / f"search-{DIGEST}.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text(first)
    path.with_name(f"search-{DIGEST}.2-of-2.jsonl").write_text("".join(others))
    assert read_evidence(run).tried == whole


@pytest.mark.parametrize(
    "name",
    ["report.html", "report.json", "count-1-0123456789.jsonl", "before/00001_01.png"],
)
def test_a_changed_file_is_named(made: tuple[Run, Path, str], tmp_path: Path, name: str) -> None:
    files = read(made[1])
    files[name] += b" "
    with pytest.raises(EvidenceError, match=f"{re.escape(name)} was changed"):
        verify_evidence(write(files, tmp_path / "forged.zip"))


def test_missing_and_added_files_are_named(made: tuple[Run, Path, str], tmp_path: Path) -> None:
    files = read(made[1])
    del files["report.csv"]
    files["extra.txt"] = b"1"
    with pytest.raises(EvidenceError, match=r"extra.txt was added; report.csv is missing"):
        verify_evidence(write(files, tmp_path / "forged.zip"))


def test_a_file_that_is_there_twice_is_named(made: tuple[Run, Path, str], tmp_path: Path) -> None:
    pack = write(read(made[1]), tmp_path / "twice.zip")
    with zipfile.ZipFile(pack, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("report.html", b"another page")
    with pytest.raises(EvidenceError, match=r"report.html is in it twice"):
        verify_evidence(pack)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (replaced("report.json", '"called": 4', '"called": 3'), "report.json: called is 3"),
        (replaced("report.csv", "not removed (6 of 12)", "removed (0 of 12)"), "0.verdict is"),
        (replaced("report.csv", ",6,12,500.0", ",0,12,500.0"), "prompts.0.after.copies is 0"),
        (
            replaced("report.html", 'data-of="after.copies">6<', 'data-of="after.copies">0<'),
            "report.html: after.copies is 0, the records give 6",
        ),
        (
            replaced("report.html", 'value="6" data-of="after.copies"', 'value="0" data-of="a"'),
            "report.html: a is 6",
        ),
        (replaced(f"count-1-{DIGEST}.jsonl", "0.7", "0.2"), "after.copies is 6, the records give"),
        (replaced("confirmations.jsonl", '"level": 0.5', '"level": 0.85'), "before.copies is"),
        (replaced("detections.jsonl", '"score": 0.6', '"score": 0.9'), "prompts.0.score is 0.6"),
        (replaced("paraphrases-before.jsonl", "0.9", "0.1"), "paraphrases_before.copies is 1"),
        (
            replaced(
                "localizations.jsonl",
                f'"neurons": {{"{LAYER}": [3, 5]',
                f'"neurons": {{"{LAYER}": [3]',
            ),
            "prompts.0.neurons is 2",
        ),
        (
            replaced("ordinary-before.jsonl", '"alignment": 0.3}', '"alignment": 0.9}'),
            "ordinary.alignment_before is",
        ),
        (
            replaced(f"paraphrases-{DIGEST}.jsonl", "0.2", "0.9"),
            "paraphrases.1.0.after.copies is 0",
        ),
        (replaced("report.json", '"any": 1', '"any": 0'), "copying.any is 0, the records give 1"),
        (
            replaced("report.json", '"text": "another wording"', '"text": "another"'),
            "paraphrases.1.0.text is another, the records give another wording",
        ),
        (
            replaced(
                "report.html", "<h1>Copies removed for 2 of 3", "<h1>Copies removed for 3 of 3"
            ),
            "'Copies removed for 3 of 3 memorized prompts: 6 of 36 fresh images are copies.'], the",
        ),
        (
            replaced("report.html", "<title>Copies removed for 2", "<title>Copies removed for 3"),
            "report.html: headline and title are ['Copies removed for 3 of 3 memorized",
        ),
        (
            replaced("report.html", "<h1>", "<h1>All copies are gone.</h1><h1>"),
            "'All copies are gone.', 'Copies removed for 2 of 3",
        ),
        (
            replaced("report.html", "✗ not removed (6 of 12)<", "✗ removed (0 of 12)<"),
            "the label of prompt 0 is ('tag warn', '✗ removed (0 of 12)'), the records give",
        ),
        (
            replaced("report.html", '"tag warn">✗ not removed (6', '"tag good">✓ not removed (6'),
            "the label of prompt 0 is ('tag good', '✓ not removed (6 of 12)'), the records",
        ),
        (
            replaced("report.html", 'id="prompt-0"', 'id="prompt-9"'),
            "the label of prompt 0 is None, the records give ('tag warn',",
        ),
        (
            replaced("report.html", '.verdict">not removed (6', '.verdict">removed (0'),
            "report.html: prompts.0.verdict is removed (0 of 12), the records give not removed",
        ),
        (
            replaced("report.html", 'prompts.0.level">0.500<', 'prompts.0.level">1<'),
            "report.html: prompts.0.level is 1, the records give 0.5",
        ),
        (
            replaced("report.html", 'data-of="after.copies">6<', 'data-of="after.copies">5<'),
            "report.html: after.copies is 5, the records give 6",
        ),
        (
            replaced("report.html", 'prompts.0.level">0.500<', 'prompts.0.level">0.501<'),
            "report.html: prompts.0.level is 0.501, the records give 0.5",
        ),
        (
            replaced("report.html", FIRST_CARD, FIRST_CARD + CARD.format(1)),
            "the cards are prompt-1, prompt-0, prompt-2, prompt-1, the records give prompt-0, prom",
        ),
        (
            replaced("report.html", FIRST_CARD, FIRST_CARD + CARD.format(9)),
            "the cards are prompt-9, prompt-0, prompt-2, prompt-1, the records give prompt-0, prom",
        ),
        (rows(lambda table: table[:1] + table[2:]), "report.csv: has rows of 1, 2, 3, 4, the"),
        (
            rows(lambda table: table[:2] + table[1:]),
            "report.csv: has rows of 0, 0, 1, 2, 3, 4, the",
        ),
        (rows(lambda table: table[:1]), "report.csv: has rows of nothing, the records give 0, 1"),
        (rows(lambda table: [row[:4] + row[5:] for row in table]), "has no column verdict"),
        (
            replaced("mitigation.json", '"status": "not removed"', '"status": "removed"'),
            "mitigation.json: outcomes.0.status is removed, the records give not removed",
        ),
        (
            replaced("mitigation.json", '"copies": 6', '"copies": 0'),
            "mitigation.json: outcomes.0.after.copies is 0, the records give 6",
        ),
        (
            replaced("report.json", '"prompts": {', '"prompts": {"7": {"status": "removed"},'),
            "report.json: has prompts that the records do not give",
        ),
        (replaced("mitigation.json", '"files_control"', '"files"'), "KeyError: 'files_control'"),
    ],
)
def test_numbers_that_do_not_follow_are_named(
    made: tuple[Run, Path, str], tmp_path: Path, change: Callable[[Files], Files], named: str
) -> None:
    """Also where the hashes were made to fit."""
    pack = write(change(read(made[1])), tmp_path / "forged.zip")
    with pytest.raises(EvidenceError, match=re.escape(named)):
        verify_evidence(pack)


def test_a_changed_picture_of_an_ordinary_prompt_shows(
    made: tuple[Run, Path, str], tmp_path: Path
) -> None:
    files = read(made[1])
    names = [name for name in files if name.startswith(f"ordinary-{DIGEST}/")]
    other = tmp_path / "other.png"
    Image.effect_noise((8, 8), 90).convert("RGB").save(other)
    for name in names:
        files = forged(files, name, other.read_bytes())
    with pytest.raises(EvidenceError, match=r"ordinary.correlation is"):
        verify_evidence(write(files, tmp_path / "forged.zip"))


@pytest.mark.parametrize("change", ["image", "prompts"])
def test_another_training_image_than_the_prompts_name_shows(
    made: tuple[Run, Path, str], tmp_path: Path, change: str
) -> None:
    files = read(made[1])
    name = next(name for name in files if name.startswith("references/"))
    if change == "image":
        files = forged(files, name, files[name] + b" ")
        named = f"{name} is not the image that prompts.jsonl names"
    else:
        text = files["prompts.jsonl"].replace(b"references/", b"references/0")
        files = forged(files, "prompts.jsonl", text)
        named = "is missing, which prompts.jsonl names"
    with pytest.raises(EvidenceError, match=named):
        verify_evidence(write(files, tmp_path / "forged.zip"))


def test_an_image_that_is_also_left_out_is_compared(
    made: tuple[Run, Path, str], tmp_path: Path
) -> None:
    """Else a forger lists the old hash among what was left out."""
    files = read(made[1])
    name = next(name for name in files if name.startswith("references/"))
    digest = json.loads(files["evidence.json"])["files"][name]["sha256"]
    files = forged(files, name, files[name] + b" ")
    listing = json.loads(files["evidence.json"])
    listing["left_out"][name] = {"sha256": digest, "why": "private"}
    files["evidence.json"] = json.dumps(listing).encode()
    with pytest.raises(EvidenceError, match=f"{name} is not the image that"):
        verify_evidence(write(files, tmp_path / "forged.zip"))


def test_a_private_image_keeps_its_hash(tmp_path: Path) -> None:
    pack = tmp_path / "evidence.zip"
    write_evidence(mitigated_run(tmp_path), pack, redact=True)
    files = read(pack)
    listing = json.loads(files["evidence.json"])
    name = next(name for name in listing["left_out"] if name.startswith("references/"))
    listing["left_out"][name]["sha256"] = "0" * 64
    files["evidence.json"] = json.dumps(listing).encode()
    with pytest.raises(EvidenceError, match=f"{name} was left out under another hash"):
        verify_evidence(write(files, pack))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (listed(lambda contents: contents.pop("left_out")), "evidence.json is damaged"),
        (listed(lambda contents: contents.pop("redacted")), "evidence.json is damaged"),
        (listed(lambda contents: contents.pop("files")), "evidence.json is damaged"),
        (listed(lambda contents: contents.update(files=[1])), "evidence.json is damaged"),
        (
            listed(lambda contents: contents["files"].update({"report.html": {}})),
            "evidence.json is damaged",
        ),
        (put("report.json", b"[" * 100_000), "report.json: "),
        (put("report.json", b'{"a":' * 900 + b"1" + b"}" * 900), "report.json: "),
        (put("report.json", b"[]"), "report.json: holds b'[]', not an object"),
        (put("before.jsonl", b"null\n"), "before.jsonl: holds b'null"),
        (put("mitigation.json", b"[]"), "mitigation.json: holds b'[]'"),
        (put("mitigation.json", b'{"edit": "("}'), "KeyError"),
        (
            put("manifest.json", b'{"kind": "mitigation", "settings": null}'),
            "manifest.json: holds no settings",
        ),
        (put("manifest.json", b'{"kind": []}'), "manifest.json: is of kind [], not mitigation"),
        (put("prompts.jsonl", b"1\n"), "prompts.jsonl: holds b'1'"),
        (put("report.csv", b"a\n1\n"), "report.csv: has no column index"),
        (put("report.csv", b"index,a\n1\n"), "report.csv: "),
        (put("report.csv", b"index\n1\r1\n"), "report.csv: "),
        (put("report.csv", b""), "report.csv: "),
        (put("report.csv", b"\xff"), "report.csv: "),
        (put("report.html", b"\xff"), "report.html: "),
        (put("report.html", b"<![no[x]]>"), "report.html: "),
        (
            put(f"ordinary-{DIGEST}/00000.png", b"no picture"),
            f"ordinary-{DIGEST}/00000.png: cannot be read as a PNG",
        ),
    ],
)
def test_damaged_packs_are_refused_by_the_name_of_the_file(
    made: tuple[Run, Path, str], tmp_path: Path, change: Callable[[Files], Files], named: str
) -> None:
    """Whatever is in them, and whether the hashes were made to fit."""
    pack = write(change(read(made[1])), tmp_path / "damaged.zip")
    with pytest.raises(EvidenceError, match=re.escape(named)):
        verify_evidence(pack)


def test_an_archive_that_was_made_to_harm(made: tuple[Run, Path, str], tmp_path: Path) -> None:
    """The name of a file in it is no UTF-8, though the archive says that it is."""
    pack = write(read(made[1]) | {"\u00e9.txt": b""}, tmp_path / "name.zip")
    content = pack.read_bytes()
    assert content.count("\u00e9.txt".encode()) == 2
    pack.write_bytes(content.replace("\u00e9.txt".encode(), b"\xff\xff.txt"))
    with pytest.raises(EvidenceError, match=r"name.zip: cannot be read as a pack"):
        verify_evidence(pack)


@pytest.mark.parametrize("kept", [True, False])
def test_numbers_of_paraphrases_and_controls_follow(tmp_path: Path, kept: bool) -> None:
    """Also of a run that kept no copies of paraphrases, and drew controls that control nothing."""

    def change(result: Any) -> None:
        result["outcomes"][2]["rung"] = "closed form, weight 3"

    run = rewritten(copied_by_a_paraphrase(mitigated_run(tmp_path), kept=kept), change)
    write_evidence(run, tmp_path / "evidence.zip")
    assert verify_evidence(tmp_path / "evidence.zip").unchecked == ()
    numbers = json.loads(read(tmp_path / "evidence.zip")["report.json"])
    assert numbers["control"]["images"] == 4
    assert numbers["copying"] == {"any": 2, "fresh": 1, "paraphrases": 1}


def test_a_pack_holds_the_copies_of_paraphrases_unless_they_are_private(tmp_path: Path) -> None:
    run = copied_by_a_paraphrase(mitigated_run(tmp_path))
    names = {f"paraphrases-{DIGEST}/00000_0{seed}.png" for seed in (0, 1)}
    for redact in (False, True):
        write_evidence(run, tmp_path / "evidence.zip", redact=redact)
        files = read(tmp_path / "evidence.zip")
        assert (names <= files.keys()) == (not redact)
        left_out = json.loads(files["evidence.json"])["left_out"]
        assert [left_out.get(name, {}).get("why") for name in sorted(names)] == (
            ["private"] * 2 if redact else [None] * 2
        )
        assert all((name in files["report.html"].decode()) == (not redact) for name in names)


def without_words(files: Files, more: str) -> bytes:
    """An earlier page, on which neither verdicts nor some numbers were marked."""
    names = rf"not_certified|prompts\.\d\.verdict{more}"
    marked = re.compile(rf'<data value="[^"]*" data-of="({names})">[^<]*</data>')
    return marked.sub("", files["report.html"].decode()).encode()


@pytest.mark.parametrize("version", [2, 3])
def test_a_pack_without_counts_of_single_copies_holds(
    made: tuple[Run, Path, str], tmp_path: Path, version: int
) -> None:
    files = read(made[1])
    numbers = json.loads(files["report.json"])
    assert numbers["single_copies"] == 0
    for name in ("not_certified", *["single_copies"] * (version < 3)):
        del numbers[name]
    numbers["schema"] = f"unmemorize.report/{version}"
    files = forged(files, "report.json", json.dumps(numbers).encode())
    files = forged(files, "report.html", without_words(files, ""))
    assert verify_evidence(write(files, tmp_path / "earlier.zip")).unchecked == ()


def test_a_pack_of_the_first_version_holds(made: tuple[Run, Path, str], tmp_path: Path) -> None:
    """It has neither counts of single paraphrases nor of prompts with copies left."""
    files = read(made[1])
    numbers = json.loads(files["report.json"])
    for name in ("copying", "paraphrases", "single_copies", "not_certified"):
        del numbers[name]
    numbers["schema"] = "unmemorize.report/1"
    result = json.loads(files["mitigation.json"])
    result["outcomes"][1]["rung"] = "closed form, weight 3"
    for outcome in result["outcomes"]:
        del outcome["paraphrases"]
    for name, text in (
        ("report.json", json.dumps(numbers)),
        ("report.html", without_words(files, r"|copying\.\w+|paraphrases\.[^\"]*").decode()),
        ("mitigation.json", json.dumps(result)),
    ):
        files = forged(files, name, text.encode())
    assert numbers["control"]["images"] == 6
    assert verify_evidence(write(files, tmp_path / "earlier.zip")).unchecked == ()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_other_files_are_no_packs(tmp_path: Path, content: bytes) -> None:
    pack = tmp_path / "e.zip"
    pack.write_bytes(content)
    with pytest.raises(EvidenceError, match="cannot be read as a pack"):
        verify_evidence(pack)


def test_a_pack_that_is_not_there_is_no_forged_one(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=r"none\.zip: there is no such file") as refused:
        verify_evidence(tmp_path / "none.zip")
    assert "rely" not in str(refused.value)


def test_other_archives_are_no_packs(made: tuple[Run, Path, str], tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=r"no evidence.json"):
        verify_evidence(write({"a.txt": b"a"}, tmp_path / "a.zip"))
    files = read(made[1])
    with pytest.raises(EvidenceError, match="is compressed"):
        verify_evidence(write(files, tmp_path / "b.zip", compression=zipfile.ZIP_DEFLATED))
    newer = files["evidence.json"].replace(b"unmemorize.evidence/1", b"unmemorize.evidence/9")
    with pytest.raises(EvidenceError, match=r"unmemorize.evidence/9"):
        verify_evidence(write(files | {"evidence.json": newer}, tmp_path / "c.zip"))


def test_a_redacted_pack_has_no_image_of_a_memorized_ordinary_caption(tmp_path: Path) -> None:
    """The unedited one is a copy of the training image."""
    run = mitigated_run(tmp_path)
    text = run_prompts(run)[1].text
    kinds = [f"ordinary-{kind}" for kind in ("before", DIGEST, CONTROL)]
    for kind in kinds:  # of an image that is not among those that changed most
        path = run.folder / f"{kind}.jsonl"
        path.write_text(path.read_text().replace('"caption 18"', json.dumps(text)))
    write_evidence(run, tmp_path / "open.zip")
    write_evidence(run, tmp_path / "redacted.zip", redact=True)
    names = {f"{kind}/00018.png" for kind in kinds}
    assert names <= read(tmp_path / "open.zip").keys()
    files = read(tmp_path / "redacted.zip")
    assert not names & files.keys()
    assert f"ordinary-{DIGEST}/00017.png" in files


def test_a_redacted_pack_has_no_private_image(tmp_path: Path) -> None:
    """Neither training images, nor what shows them, nor the names of their files."""
    run = mitigated_run(tmp_path)
    write_evidence(run, tmp_path / "open.zip")
    pack = tmp_path / "redacted.zip"
    write_evidence(run, pack, redact=True)
    files, all_files = read(pack), read(tmp_path / "open.zip")
    training = [path.read_bytes() for path in (tmp_path / "private").iterdir()]
    shows = [
        all_files[name]
        for name in all_files
        if name.startswith(("before/", "control-cccccccccc/", "differences/", f"{COUNT}/"))
        or name == f"after-{DIGEST}/00000_03.png"  # the copy that is left
    ]
    whole = pack.read_bytes()
    for image in (*training, *shows):
        assert image not in whole
    assert b"training-0" not in whole
    for image in training:
        assert hashlib.sha256(image).hexdigest().encode() in whole
    assert f"after-{DIGEST}/00000_02.png" in files
    page = files["report.html"].decode()
    cards = re.findall(r'<article class="card".*?</article>', page, re.DOTALL)
    for card in cards:
        links = re.findall(r'<a href="([^#"]+)"', card)
        assert links
        assert all(link in files and link.startswith("after-") for link in links)
        assert card.count("<img") == len(links)
    assert "is redacted" in page
    left_out = json.loads(files["evidence.json"])["left_out"]
    assert sum(entry["why"] == "private" for entry in left_out.values()) == 3 + 16 + 6 + 6 + 3 + 1
    check = verify_evidence(pack)
    assert check.redacted
    assert check.numbers == verify_evidence(tmp_path / "open.zip").numbers


CAPTION = "Memorized  PROMPT 2"


@pytest.mark.parametrize(
    ("copies", "caption", "private"),
    [
        ({1: [4], 3: [2, 18]}, "a caption", {2, 4, 18}),
        ({}, CAPTION, {5}),
        ({0: None}, "a caption", set(range(19))),  # a run of an earlier version
    ],
)
def test_a_redacted_pack_has_no_ordinary_image_that_may_show_a_training_image(
    tmp_path: Path, copies: dict[int, list[int] | None], caption: str, private: set[int]
) -> None:
    """Neither unedited nor under any edit. Its captions, records and hashes stay."""
    run = mitigated_run(tmp_path)
    write_evidence(run, tmp_path / "open.zip")
    with_ordinary_copies(run, copies, caption)
    write_evidence(run, tmp_path / "redacted.zip", redact=True)
    everything, files = read(tmp_path / "open.zip"), read(tmp_path / "redacted.zip")
    pictures = {name for name in everything if re.match(r"ordinary-.*\.png", name)}
    kept = {name for name in pictures if int(Path(name).stem) not in private}
    assert pictures & files.keys() == kept
    left_out = json.loads(files["evidence.json"])["left_out"]
    for name in pictures - kept:
        assert left_out[name]["why"] == "private"
        assert left_out[name]["sha256"] == hashlib.sha256(everything[name]).hexdigest()
    page = files["report.html"].decode()
    shown = set(re.findall(r'href="(ordinary-[^"]*)"', page))
    assert shown <= kept
    assert len(shown) == (8 if kept else 0)
    check = verify_evidence(tmp_path / "redacted.zip")
    assert set(check.unchecked) == {
        "ordinary.correlation",
        *(f"{name}.correlation" for name in SAMPLED if private & {0, 1, 2}),
    }


def test_another_training_image_than_that_of_the_run_is_refused(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    image = tmp_path / "private" / "training-2.png"
    Image.new("RGB", (16, 16)).save(image)
    with pytest.raises(EvidenceError, match=r"training-2.png: .* changed since .* Put that back"):
        write_evidence(run, tmp_path / "e.zip")
    assert not (tmp_path / "e.zip").exists()
    image.unlink()
    write_evidence(run, tmp_path / "e.zip")
    contents = json.loads(read(tmp_path / "e.zip")["evidence.json"])
    reasons = {entry["why"] for entry in contents["left_out"].values()}
    assert "not there when the pack was made" in reasons
    verify_evidence(tmp_path / "e.zip")


def test_one_of_two_files_of_a_training_image_is_enough(tmp_path: Path) -> None:
    """Two prompts name the same image in two files, of which one is gone."""
    run = mitigated_run(tmp_path)
    one, two = (tmp_path / "private" / f"training-{index}.png" for index in (0, 1))
    listing = run.folder / "prompts.jsonl"
    listing.write_text(listing.read_text().replace(hash_of_file(two), hash_of_file(one)))
    content = one.read_bytes()
    two.unlink()
    for gone in (None, one):
        if gone:
            gone.rename(two)
        write_evidence(run, tmp_path / "e.zip")
        files = read(tmp_path / "e.zip")
        assert content in files.values()
        assert "references/" not in json.dumps(json.loads(files["evidence.json"])["left_out"])
        verify_evidence(tmp_path / "e.zip")


def test_a_training_image_that_came_after_the_run_is_left_out(tmp_path: Path) -> None:
    """The run does not compare with it."""
    run = mitigated_run(tmp_path)
    image = tmp_path / "private" / "training-2.png"
    listing = run.folder / "prompts.jsonl"
    listing.write_text(listing.read_text().replace(hash_of_file(image), ""))
    write_evidence(run, tmp_path / "e.zip")
    files = read(tmp_path / "e.zip")
    left_out = json.loads(files["evidence.json"])["left_out"]["references/not-readable.png"]
    assert left_out == {"sha256": "", "why": "not there when the run was made"}
    assert image.read_bytes() not in (tmp_path / "e.zip").read_bytes()
    verify_evidence(tmp_path / "e.zip")


def test_runs_of_other_kinds_have_no_packs(tmp_path: Path) -> None:
    found = r"only mitigations and audits of images have packs of evidence, and .* localization\. "
    with pytest.raises(RunError, match=found):
        write_evidence(localized_run(tmp_path / "run", [], {}), tmp_path / "e.zip")


def test_signatures_need_an_extra(
    made: tuple[Run, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    install = "needs c2pa-python. pip install 'unmemorize[c2pa]'"
    run, pack, _ = made
    code, _, err = cli(
        "report", run.folder, "--pack", tmp_path / "e.zip", "--sign", pack, "--key", pack
    )
    assert (code, f"a signature {install}" in err) == (1, True)
    assert not (tmp_path / "e.zip").exists()
    signed = write(read(pack) | {"META-INF/content_credential.c2pa": b"?"}, tmp_path / "signed.zip")
    with pytest.raises(EvidenceError, match=re.escape(f"is signed, and to check this {install}")):
        verify_evidence(signed)
    others = write(read(pack) | {"META-INF/": b""}, tmp_path / "others.zip")
    with pytest.raises(EvidenceError, match=r"META-INF/ was added"):
        verify_evidence(others)


def test_the_commands(made: tuple[Run, Path, str], tmp_path: Path, cli: Cli) -> None:
    run, _, digest = made
    pack = tmp_path / "evidence.zip"
    code, out, _ = cli("report", run.folder, "--pack", pack)
    assert code == 0
    assert f"SHA-256 of the pack: {digest}" in out
    code, out, _ = cli("verify", pack)
    assert code == 0
    assert f"SHA-256 of the pack: {digest}" in out
    assert "not signed: this shows that it is consistent, not where it comes from" in out
    unnamed = pack.with_suffix("")  # as the next command of report --pack NAME says
    shutil.copyfile(pack, unnamed)
    code, out, _ = cli("verify", unnamed)
    assert (code, f"SHA-256 of the pack: {digest}" in out) == (0, True)
    weights = pack.with_suffix(".ckpt")  # PyTorch writes such files as ZIP archives
    shutil.copyfile(pack, weights)
    code, _, err = cli("verify", weights)
    assert (code, "name the model it was made from" in err) == (1, True)
    files = read(pack)
    write(files | {"report.html": b"nothing"}, pack)
    code, _, err = cli("verify", pack)
    assert code == 1
    assert "report.html was changed" in err
    code, out, err = cli("report", run.folder, "--redact")
    assert code == 0
    assert "--pack evidence.zip --redact" in out + err  # else it would be undone
    assert "is redacted" in (run.folder / "report.html").read_text()
    code, _, err = cli("verify", tmp_path / "nothing.json")
    assert code == 1
    assert "nothing.json: there is no such file or folder. Check the path." in err
    (tmp_path / "edit.json").write_text("{}")
    code, _, err = cli("verify", tmp_path / "edit.json")
    assert code == 1
    assert "name the model it was made from" in err
