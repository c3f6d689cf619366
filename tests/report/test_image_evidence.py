"""Packs of evidence of audits of images, and what they refuse."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from audited import image_audit_run
from colours import noise
from packs import Change, Files, forged, listed, put, read, replaced, unpack, write
from unmemorize import EvidenceError, Run, RunError, verify_evidence, write_evidence, write_report
from unmemorize.audit import read_image_scores
from unmemorize.audit._image_first import judged_images
from unmemorize.audit._measures import image_scores
from unmemorize.audit._records import AttackRecord
from unmemorize.report._image_audit_numbers import numbers_of_images
from unmemorize.report._numbers import flat
from unmemorize.report._recomputed import recompute
from unmemorize.runs import StoredImage, hash_of_file

Cli = Callable[..., tuple[int, str, str]]
NAMES = ("late", "early", "never")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, str]:
    """An audit of images, its pack, and the hash of the pack."""
    folder = tmp_path_factory.mktemp("evidence")
    run, _ = image_audit_run(folder / "run")
    (run.folder / "edited-L4" / "00001-0025.safetensors").write_bytes(b"state")
    pack = folder / "evidence.zip"
    return run, pack, write_evidence(run, pack)


def test_a_pack_is_whole_and_all_of_its_numbers_follow(made: tuple[Run, Path, str]) -> None:
    _, pack, digest = made
    check = verify_evidence(pack)
    assert check.sha256 == digest == hashlib.sha256(pack.read_bytes()).hexdigest()
    assert check.files == len(read(pack)) - 1
    assert (check.unchecked, check.redacted, check.signature) == ((), False, None)
    numbers = flat(json.loads(read(pack)["report.json"]))
    assert check.numbers == sum(isinstance(each, (int, float)) for each in numbers.values()) > 30
    verdict = "found: copied at 25 steps, p = 0.04 (0.06 for all 3 images together)"
    assert numbers["findings.0.verdict"] == verdict


def test_what_a_pack_holds(made: tuple[Run, Path, str]) -> None:
    run, pack, _ = made
    files = read(pack)
    closest = {f"edited-L4/{index:05}-0025.png" for index in range(3)}
    images = {f"references/{hash_of_file(run.folder.parent / f'{each}.png')}.png" for each in NAMES}
    records = {"edited-L4.jsonl", "never-trained-L4.jsonl", "manifest.json", "images.json"}
    report = {"report.html", "report.json", "report.csv", "evidence.json"}
    assert files.keys() == closest | images | records | report
    for name in (closest | records | report) - {"images.json", "evidence.json"}:
        assert files[name] == (run.folder / name).read_bytes()
    left_out = json.loads(files["evidence.json"])["left_out"]
    assert left_out["edited-L4/00001-0025.safetensors"] == {
        "sha256": hashlib.sha256(b"state").hexdigest(),
        "why": "the state of an attack, on which no number rests",
    }
    control = "never-trained-L4/00023-0025.png"
    assert left_out[control] == {
        "sha256": hash_of_file(run.folder / control),
        "why": "the report does not show it",
    }
    assert str(run.folder.parent).encode() not in files["images.json"]


def test_the_same_run_gives_the_same_bytes(made: tuple[Run, Path, str], tmp_path: Path) -> None:
    run, pack, digest = made
    assert write_evidence(run.folder, tmp_path / "again.zip") == digest
    assert (tmp_path / "again.zip").read_bytes() == pack.read_bytes()


@pytest.mark.parametrize("redact", [False, True])
def test_an_unpacked_pack_is_a_run(tmp_path: Path, redact: bool) -> None:
    run, _ = image_audit_run(tmp_path / "run")
    (run.folder / "edited-L4" / "00001-0025.safetensors").write_bytes(b"state")
    digest = write_evidence(run, tmp_path / "evidence.zip", redact=redact)
    unpacked = unpack(tmp_path / "evidence.zip", tmp_path / "unpacked")
    page = write_report(unpacked, redact=redact).read_bytes()
    assert page == (run.folder / "report.html").read_bytes()
    assert write_evidence(unpacked, tmp_path / "again.zip", redact=redact) == digest
    if redact:
        with pytest.raises(EvidenceError, match="comes from a redacted pack, which lacks 6 images"):
            write_report(unpacked)


def test_a_redacted_pack_has_neither_images_nor_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["unmemorize", "audit", "--image", "early.png"])
    run, _ = image_audit_run(tmp_path / "run")
    write_evidence(run, tmp_path / "open.zip")
    write_evidence(run, tmp_path / "redacted.zip", redact=True)
    whole, files = read(tmp_path / "open.zip"), read(tmp_path / "redacted.zip")
    pictures = [content for name, content in whole.items() if name.endswith(".png")]
    content = (tmp_path / "redacted.zip").read_bytes()
    assert len(pictures) == 6
    for picture in pictures:
        assert picture not in content
        assert hashlib.sha256(picture).hexdigest().encode() in content
    for name in NAMES:
        assert f"{name}.png".encode() not in content
    assert run.manifest.command in json.loads(whole["manifest.json"])["command"]
    assert json.loads(files["manifest.json"])["command"] == ""
    left_out = json.loads(files["evidence.json"])["left_out"]
    assert sum(entry["why"] == "private" for entry in left_out.values()) == 6
    check = verify_evidence(tmp_path / "redacted.zip")
    assert check.redacted
    assert check.numbers == verify_evidence(tmp_path / "open.zip").numbers
    assert (run.folder / "images.json").read_bytes() != files["images.json"]


@pytest.mark.parametrize(
    "name", ["report.html", "images.json", "never-trained-L4.jsonl", "edited-L4/00001-0025.png"]
)
def test_a_changed_file_is_named(made: tuple[Run, Path, str], tmp_path: Path, name: str) -> None:
    files = read(made[1])
    files[name] += b" "
    with pytest.raises(EvidenceError, match=f"{re.escape(name)} was changed"):
        verify_evidence(write(files, tmp_path / "forged.zip"))
    del files[name]
    with pytest.raises(EvidenceError, match=f"{re.escape(name)} is missing"):
        verify_evidence(write(files, tmp_path / "forged.zip"))


def made_of(**changed: object) -> Change:
    """The pack of an audit with other settings."""

    def change(files: Files) -> Files:
        manifest = json.loads(files["manifest.json"])
        manifest["settings"] |= changed
        return forged(files, "manifest.json", json.dumps(manifest).encode())

    return change


FOUND = "found: copied at 25 steps, p = 0.04 (0.06 for all 3 images together)"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (replaced("report.json", '"p": 0.04', '"p": 0.004'), "report.json: findings.0.p is 0.004"),
        (
            replaced("report.json", '"adjusted": 0.06', '"adjusted": 0.04'),
            "findings.0.adjusted is 0.04, the records give 0.06",
        ),
        (replaced("report.json", '"found": 2', '"found": 3'), "found is 3, the records give 2"),
        (replaced("report.json", '"found": true', '"found": false'), "findings.0.found is False"),
        (replaced("report.json", '"smallest_p": 0.04', '"smallest_p": 0.01'), "smallest_p is 0.01"),
        (replaced("report.json", '"needed": 2', '"needed": 1'), "needed is 1, the records give 2"),
        (replaced("report.json", '"controls": 24', '"controls": 99'), "controls is 99"),
        (replaced("report.json", '"rate": 0.1', '"rate": 0.01'), "report.json: rate is 0.01"),
        (replaced("report.json", "possible p is 0.04", "possible p is 0.01"), "json: ranks is 24"),
        (replaced("report.json", '"budget": 25,\n   "images": 2', '"budget": 25,\n   "images": 3'),
         "copied.2.images is 3, the records give 2"),
        (replaced("report.json", "image-report/1", "image-report/2"), "schema is unmemorize.image"),
        (replaced("images.json", '"p": 0.04', '"p": 0.004'), "images.json: findings.0.p is 0.004"),
        (replaced("images.json", '"found": true', '"found": false'), "json: findings.0.found is"),
        (replaced("images.json", '"work": 600', '"work": 60'), "findings.0.work is 60"),
        (replaced("images.json", "-0025.png", "-0005.png"), "findings.0.closest is edited-L4"),
        (replaced("images.json", '"sha256": "', '"sha256": "0'), "findings.0.image.sha256 is 0"),
        (replaced("images.json", "late.png", "mine.png"), "findings.0.file is late.png"),
        (replaced("images.json", "said to be", "known to be"), "report.json: never_trained is"),
        (replaced("report.csv", ",0.04,0.06,", ",0.01,0.06,"), "report.csv: findings.0.p is 0.01"),
        (replaced("report.csv", ",True,", ",False,"), "findings.0.found is False"),
        (replaced("report.csv", FOUND, FOUND.replace("25", "5")), "findings.0.verdict is found: "),
        (replaced("report.html", "<h1>2 of 3", "<h1>3 of 3"), "report.html: headline and title"),
        (replaced("report.html", "<title>2 of 3", "<title>3 of 3"), "headline and title are ['3"),
        (
            replaced("report.html", f">{FOUND}<", f">{FOUND.replace('0.04', '0.01')}<"),
            "report.html: findings.0.verdict is found: copied at 25 steps, p = 0.01 (0.06",
        ),
        (replaced("report.html", f">{FOUND}<", f">{FOUND}!<"), "label of image 0 is ('tag warn'"),
        (replaced("report.html", '"tag warn">', '"tag">'), "label of image 1 is ('tag', 'fo"),
        (replaced("report.html", 'id="image-2"', 'id="image-7"'), "the label of image 2 is None"),
        (replaced("report.html", 'score">0.700<', 'score">0.900<'), "findings.0.score is 0.900"),
        (replaced("report.html", 'score">0.700<', 'score">1<'), "findings.0.score is 1, the"),
        (replaced("report.html", f'"{FOUND}"', f'"{FOUND}!"'), "findings.0.verdict is found: c"),
        (replaced("report.html", 'value="0.7"', 'value="0.8"'), "score is 0.8, the records give 0"),
        (replaced("report.html", 'controls">0<', 'controls">9<'), "report.html: copied.0.controls"),
        (replaced("report.html", ">late.png<", ">mine.png<"), "html: findings.0.file is mine.png"),
        (replaced("report.html", "p is 0.04. At", "p is 0.01. At"), "report.html: ranks is 24"),
        (replaced("edited-L4.jsonl", "0.7]", "0.9]"), "findings.0.score is 0.7, the records give"),
        (replaced("edited-L4.jsonl", "0.7]", "0.4]"), "json: found is 2, the records give 0"),
        (replaced("edited-L4.jsonl", '"samples": 600', '"samples": 6'), "findings.0.work is 600"),
        (replaced("never-trained-L4.jsonl", "0.1]", "0.95]"), "findings.0.p is 0.04, the records"),
        (made_of(rate=0.01), "rate is 0.1, the records give 0.01"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_follow_are_named(
    made: tuple[Run, Path, str], tmp_path: Path, change: Change, named: str
) -> None:
    """Also where the hashes were made to fit."""
    pack = write(change(read(made[1])), tmp_path / "forged.zip")
    with pytest.raises(EvidenceError, match=re.escape(named)):
        verify_evidence(pack)


def without_lines(name: str, *numbers: int) -> Change:
    def change(files: Files) -> Files:
        lines = files[name].splitlines(keepends=True)
        kept = [line for number, line in enumerate(lines) if number not in numbers]
        return forged(files, name, b"".join(kept))

    return change


def without_control(files: Files) -> Files:
    """The pack without a control that comes back, neither in the records nor in the manifest."""
    controls = json.loads(files["manifest.json"])["settings"]["controls"]
    files = made_of(controls=controls[:-1])(files)
    return without_lines("never-trained-L4.jsonl", 69, 70, 71)(files)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without_control, "controls is 24, the records give 23"),
        (without_lines("never-trained-L4.jsonl", 69, 70, 71), "L4: 69 records in place of 72"),
        (without_lines("edited-L4.jsonl", 8), "edited-L4: 8 records in place of 9"),
        (replaced("edited-L4.jsonl", '"target": 1', '"target": 2'), "record 3 is not of the image"),
        (replaced("edited-L4.jsonl", '"budget": 5', '"budget": 9'), "record 1 is not of the image"),
        (replaced("edited-L4.jsonl", '"index": 8', '"index": 9'), "record 9 is not of the image"),
        (replaced("edited-L4.jsonl", "[0.05]", "[]"), "StatisticsError"),
        (put("edited-L4.jsonl", b"null\n"), "edited-L4.jsonl: holds b'null"),
        (put("images.json", b"[]"), "images.json: holds b'[]'"),
        (put("images.json", b"{}"), "KeyError"),
        (put("report.json", b"[]"), "report.json: holds b'[]'"),
        (put("report.csv", b"a\n1\n"), "report.csv: has no column index"),
        (put("manifest.json", b'{"kind": "image-audit"}'), "KeyError: 'settings'"),
        (replaced("manifest.json", '"image-audit"', '"audit"'), "manifest.json: is of kind audit"),
        (replaced("manifest.json", '"image-audit"', '"mitigation"'), "is missing or damaged"),
        (made_of(rate=0), "ZeroDivisionError"),
        (made_of(rate="1e999999999"), "ValueError"),
        (replaced("manifest.json", '"seeds": 1', '"seeds": 1000000000000'), "records in place of"),
        (listed(lambda contents: contents.pop("left_out")), "evidence.json is damaged"),
    ],
)  # fmt: skip
def test_packs_of_other_or_damaged_records_are_refused(
    made: tuple[Run, Path, str], tmp_path: Path, change: Change, named: str
) -> None:
    pack = write(change(read(made[1])), tmp_path / "damaged.zip")
    with pytest.raises(EvidenceError, match=re.escape(named)):
        verify_evidence(pack)


def test_another_image_than_the_manifest_names_shows(
    made: tuple[Run, Path, str], tmp_path: Path
) -> None:
    files = read(made[1])
    name = f"references/{hash_of_file(made[0].folder.parent / 'late.png')}.png"
    files = forged(files, name, files[name] + b" ")
    with pytest.raises(EvidenceError, match=f"{name} is not the image that manifest.json names"):
        verify_evidence(write(files, tmp_path / "forged.zip"))


def test_an_image_that_is_not_that_of_the_audit_is_refused(tmp_path: Path) -> None:
    run, _ = image_audit_run(tmp_path / "run")
    image, pack = tmp_path / "late.png", tmp_path / "evidence.zip"
    noise(50, (32, 32)).save(image)
    with pytest.raises(EvidenceError, match=r"late\.png: .* changed since .* Put that back"):
        write_evidence(run, pack)
    assert not pack.exists()
    image.unlink()
    write_evidence(run, pack)
    left_out = json.loads(read(pack)["evidence.json"])["left_out"]
    assert "not there when the pack was made" in {entry["why"] for entry in left_out.values()}
    verify_evidence(pack)


def test_an_unfinished_audit_has_no_pack(tmp_path: Path) -> None:
    run, _ = image_audit_run(tmp_path / "run")
    (run.folder / "images.json").unlink()
    with pytest.raises(RunError, match=r"images\.json.*Repeat unmemorize audit"):
        write_evidence(run, tmp_path / "evidence.zip")
    assert not (tmp_path / "evidence.zip").exists()


def test_a_name_that_is_no_utf_8_is_written_out(tmp_path: Path) -> None:
    run, result = image_audit_run(tmp_path / "run")
    names = ("\udce9.png", "b\r.png", '"c,\n.png')
    files = [
        replace(finding.image, path="", absolute=str(tmp_path / name))
        for name, finding in zip(names, result.findings, strict=True)
    ]
    words, rate = result.never_trained, result.rate
    renamed = judged_images(files, *read_image_scores(run), words, rate)
    run.write("images.json", json.dumps(renamed.to_json()))
    write_evidence(run, tmp_path / "evidence.zip")
    assert verify_evidence(tmp_path / "evidence.zip").unchecked == ()


STEPS = (0, 5, 10)


def attacks(rng: np.random.Generator, images: int, mean: float) -> list[AttackRecord]:
    """Four trials of each image at each budget, many of them with the same scores."""
    return [
        AttackRecord(
            target=number // 12,
            prompt="",
            start="other",
            seed=0,
            budget=STEPS[number % 3],
            samples=number % 7,
            seconds=1.0,
            scores=tuple(rng.normal(mean + 0.1 * (number % 3), 0.2, 4).round(1).tolist()),
            measure="image",
            image=f"{number}.png",
        )
        for number in range(12 * images)
    ]


def in_shards(arm: str, records: list[AttackRecord]) -> Files:
    """Records as two shards write them."""
    lines = [json.dumps({"index": at, **asdict(each)}) for at, each in enumerate(records)]
    shards = {"1-of-2": lines[1::2], "2-of-2": lines[::2]}
    return {
        f"{arm}-L4.{shard}.jsonl": "".join(f"{line}\n" for line in some).encode()
        for shard, some in shards.items()
    }


@pytest.mark.parametrize("seed", range(20))
def test_two_computations_agree(seed: int) -> None:
    """That of the audit and that of the check, where scores tie and images have several trials."""
    rng = np.random.default_rng(seed)
    images, controls = int(rng.integers(1, 6)), int(rng.integers(1, 40))
    rate = (0.05, 0.1, 0.3)[seed % 3]
    hashes = [f"{number:064}" for number in range(images)]
    settings = {"levels": ["L4"], "steps": STEPS, "starts": ["noise", "other"], "seeds": 2}
    determined = {
        "settings": settings,
        "rate": rate,
        "images": hashes,
        "controls": ["0"] * controls,
    }
    asked, null = attacks(rng, images, 0.5), attacks(rng, controls, 0.2)
    scores = image_scores(asked, range(images)), image_scores(null, range(controls))
    stored = [StoredImage(path=each, absolute=f"/{each}", sha256=each) for each in hashes]
    result = judged_images(stored, *scores, "other images", rate)
    recomputed = recompute(
        in_shards("edited", asked)
        | in_shards("never-trained", null)
        | {
            "manifest.json": json.dumps({"kind": "image-audit", "settings": determined}).encode(),
            "images.json": json.dumps(result.to_json()).encode(),
        }
    )
    numbers = flat(numbers_of_images(result, *scores, redact=False).to_json())
    assert recomputed.numbers.keys() == numbers.keys()
    for name, value in numbers.items():
        close = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
        assert recomputed.numbers[name] == close, name


def test_the_commands(made: tuple[Run, Path, str], tmp_path: Path, cli: Cli) -> None:
    run, _, digest = made
    pack = tmp_path / "evidence.zip"
    code, out, err = cli("report", run.folder)
    assert (code, f"unmemorize report {run.folder} --pack evidence.zip" in out + err) == (0, True)
    code, out, _ = cli("report", run.folder, "--pack", pack)
    assert (code, f"SHA-256 of the pack: {digest}" in out) == (0, True)
    code, out, _ = cli("verify", pack)
    assert (code, f"SHA-256 of the pack: {digest}" in out) == (0, True)
    assert "not signed: this shows that it is consistent, not where it comes from" in out
    unnamed = shutil.copyfile(pack, pack.with_suffix(""))
    assert cli("verify", unnamed)[0] == 0
    write(replaced("report.json", '"p": 0.04', '"p": 0.01')(read(pack)), pack)
    code, _, err = cli("verify", pack)
    assert (code, "findings.0.p is 0.01, the records give 0.04" in " ".join(err.split())) == (
        1,
        True,
    )
    code, _, err = cli("report", run.folder, "--pack", pack, "--statement", run.folder / "a.json")
    assert (code, "only the report of a mitigation holds a statement" in err) == (1, True)
