"""The operator's statement: checked, kept with the run, quoted as such, and part of a pack."""

from __future__ import annotations

import hashlib
import html
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audited import image_audit_run
from mitigated_run import mitigated_run
from records import HOSTILE, localized_run
from unmemorize import EvidenceError, Run, RunError, verify_evidence, write_evidence, write_report

Cli = Callable[..., tuple[int, str, str]]
KEYS = (
    "run_by, run_for, model_licence, works_chosen, complaint, rights, reference_images, "
    "human_check, complaint_received, complaint_answered, contact"
)
HEADING = "The operator's own words, which nothing here has checked"
STATED = {"run_by": f"Jane Doé {HOSTILE}", "works_chosen": "a scan", "contact": "a@example.org"}
ROW = re.compile(r'<tr id="field-(\w)">(.*?)</tr>', re.DOTALL)
EMPTY_ROWS = {
    "A": [
        "how to repeat it",
        "hashes of the model's files; scheduler, device, threads; who ran it, for whom, licence of "
        "the model",
    ],
    "B": [
        "how to repeat it",
        "how works were chosen, number of the complaint, rights, as the claimant states them, "
        "where reference images came from",
    ],
    "D": ["how sure it is", "a check by people"],
    "L": ["not in this record", "complaint received, complaint answered, contact for complaints"],
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return mitigated_run(tmp_path / "made", memorized=2)


def saved(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def annex(page: str) -> dict[str, list[str]]:
    """Where each field is, and what is missing of it, by letter."""
    rows = {
        letter: [" ".join(html.unescape(re.sub("<[^>]+>", "", cell)).split()) for cell in cells]
        for letter, row in ROW.findall(page)
        for cells in [re.findall("<td>(.*?)</td>", row, re.DOTALL)]
    }
    return {letter: rows[letter] for letter in "ABDL"}


def test_without_a_statement_everything_is_missing(run: Run) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert annex(page) == EMPTY_ROWS
    assert 'id="statement"' not in page
    assert "#statement" not in page
    assert json.loads((run.folder / "report.json").read_text())["statement"] is None


def test_what_is_stated_is_quoted_and_the_rest_is_missing(run: Run, tmp_path: Path) -> None:
    file = saved(tmp_path / "mine.json", STATED)
    page = write_report(run, statement=file).read_text(encoding="utf-8")
    assert (run.folder / "statement.json").read_bytes() == file.read_bytes()
    section = page[page.index('<h2 id="statement"') : page.index('<h2 id="numbers"')]
    assert page.index('<h2 id="how"') < page.index('<h2 id="statement"')
    assert HEADING in section
    pairs = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", section, re.DOTALL)
    assert {name: html.unescape(text) for name, text in pairs} == {
        "who ran it": STATED["run_by"],
        "how works were chosen": "a scan",
        "contact for complaints": "a@example.org",
    }
    assert HOSTILE not in page
    assert page.count('href="#statement"') == 4  # at the top, and in three fields of the annex
    words = "the operator's own words"
    assert annex(page) == {
        "A": [
            f"how to repeat it, {words}",
            "hashes of the model's files; scheduler, device, threads; for whom, licence of the "
            "model",
        ],
        "B": [
            f"how to repeat it, {words}",
            EMPTY_ROWS["B"][1].removeprefix("how works were chosen, "),
        ],
        "D": EMPTY_ROWS["D"],
        "L": [words, "complaint received, complaint answered"],
    }
    numbers = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
    assert numbers["statement"] == dict.fromkeys(KEYS.split(", ")) | STATED


def test_a_whole_statement_leaves_nothing_missing(run: Run, tmp_path: Path) -> None:
    texts = {key: f"words on {key}" for key in KEYS.split(", ")}
    page = write_report(run, statement=saved(tmp_path / "s.json", texts)).read_text()
    missing = {letter: row[1] for letter, row in annex(page).items()}
    of_the_run = "hashes of the model's files; scheduler, device, threads"
    assert missing == {"A": of_the_run, "B": "–", "D": "–", "L": "–"}
    for text in texts.values():
        assert page.count(f"<dd>{text}</dd>") == 1


def test_later_reports_keep_it_until_another_one_replaces_it(run: Run, tmp_path: Path) -> None:
    file = saved(tmp_path / "mine.json", STATED)
    page = write_report(run, statement=file).read_bytes()
    file.unlink()
    assert write_report(run).read_bytes() == page
    assert HEADING in write_report(run, redact=True).read_text()
    assert write_report(run, statement=run.folder / "statement.json").read_bytes() == page
    saved(tmp_path / "other.json", {"human_check": "no"})
    page_after = write_report(run, statement=str(tmp_path / "other.json")).read_text()
    assert "a scan" not in page_after
    assert annex(page_after)["D"] == ["how sure it is, the operator's own words", "–"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "mine.json: not a valid statement (Expecting"),
        ('["run_by"]', "mine.json: not a valid statement (it holds a list, not an object)"),
        ({}, "mine.json: states nothing."),
        ({"run_by": "me", "runby": "me"}, "mine.json: 'runby' is no key of a statement."),
        ({"human_check": True}, "mine.json: 'human_check' is True, not a text"),
        ({"contact": None}, "mine.json: 'contact' is None, not a text"),
        ({"rights": " \n"}, "mine.json: 'rights' is ' \\n', not a text"),
    ],
)
def test_what_is_no_statement_is_refused(
    run: Run, tmp_path: Path, content: Any, problem: str
) -> None:
    """By file, key and the keys that are known. What the run has stays."""
    page = write_report(run, statement=saved(tmp_path / "good.json", STATED)).read_bytes()
    file = saved(tmp_path / "mine.json", content)
    with pytest.raises(RunError, match=re.escape(problem)) as raised:
        write_report(run, statement=file)
    assert str(file) in str(raised.value)
    assert f"Known keys: {KEYS}." in str(raised.value)
    assert json.loads((run.folder / "statement.json").read_text()) == STATED
    assert (run.folder / "report.html").read_bytes() == page


@pytest.mark.parametrize("text", ["a\x1b[2Jb", "half \ud800 of one"])
def test_texts_that_cannot_be_shown_are_refused(run: Run, tmp_path: Path, text: str) -> None:
    file = saved(tmp_path / "mine.json", {"run_by": text})
    with pytest.raises(RunError, match=r"mine\.json: 'run_by': a text holds control characters"):
        write_report(run, statement=file)
    assert not (run.folder / "statement.json").exists()


def test_a_file_that_cannot_be_a_statement_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.json: the statement cannot be read"):
        write_report(run, statement=tmp_path / "none.json")
    large = saved(tmp_path / "large.json", " " * (1024**2 + 1))
    with pytest.raises(RunError, match=r"large\.json: more than 1 MiB, too large for a statement"):
        write_report(run, statement=large)


def test_a_damaged_statement_of_the_run_is_named_and_can_be_replaced(
    run: Run, tmp_path: Path
) -> None:
    saved(run.folder / "statement.json", "{")
    with pytest.raises(RunError, match=r"statement\.json: not a valid statement"):
        write_report(run)
    assert HEADING in write_report(run, statement=saved(tmp_path / "s.json", STATED)).read_text()


def test_an_unfinished_mitigation_takes_none(run: Run, tmp_path: Path) -> None:
    (run.folder / "mitigation.json").unlink()
    with pytest.raises(RunError):
        write_report(run, statement=saved(tmp_path / "s.json", STATED))
    assert not (run.folder / "statement.json").exists()


@pytest.mark.parametrize("kind", ["localization", "image audit"])
def test_only_mitigations_have_statements(tmp_path: Path, cli: Cli, kind: str) -> None:
    if kind == "localization":
        folder = localized_run(tmp_path / "run", [], {}).folder
    else:
        folder = image_audit_run(tmp_path / "run")[0].folder
    file = saved(tmp_path / "s.json", STATED)
    code, _, err = cli("report", folder, "--statement", file)
    assert code == 1
    assert "only the report of a mitigation holds a statement" in err
    assert "run of kind" in err
    assert not (folder / "statement.json").exists()
    assert not (folder / "report.html").exists()


def read(pack: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(pack) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(files: dict[str, bytes], pack: Path) -> Path:
    with zipfile.ZipFile(pack, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return pack


def forged(files: dict[str, bytes], pack: Path, **changed: Any) -> Path:
    """Write a pack with other JSON files, and with hashes that fit, as a forger would."""
    contents = json.loads(files["evidence.json"])
    for stem, value in changed.items():
        name, content = f"{stem}.json", json.dumps(value).encode()
        files = files | {name: content}
        digest = hashlib.sha256(content).hexdigest()
        contents["files"][name] = {"sha256": digest, "bytes": len(content)}
    return write(files | {"evidence.json": json.dumps(contents).encode()}, pack)


def test_a_pack_holds_the_statement_and_its_check_covers_it(
    run: Run, tmp_path: Path, cli: Cli
) -> None:
    file, pack = saved(tmp_path / "mine.json", STATED), tmp_path / "evidence.zip"
    code, out, err = cli("report", run.folder, "--pack", pack, "--redact", "--statement", file)
    assert (code, f"evidence: {pack}" in out) == (0, True), err
    files = read(pack)
    assert files["statement.json"] == file.read_bytes()
    check = verify_evidence(pack)
    assert (check.unchecked, check.redacted) == ((), True)
    digest = hashlib.sha256(pack.read_bytes()).hexdigest()
    assert write_evidence(run, tmp_path / "again.zip", redact=True) == digest  # also without it
    with zipfile.ZipFile(pack) as archive:
        archive.extractall(tmp_path / "unpacked")
    page = write_report(Run.load(tmp_path / "unpacked"), redact=True).read_bytes()
    assert page == files["report.html"]

    other = files | {"statement.json": json.dumps({**STATED, "run_by": "else"}).encode()}
    with pytest.raises(EvidenceError, match=r"statement\.json was changed"):
        verify_evidence(write(other, tmp_path / "changed.zip"))
    without = {name: content for name, content in files.items() if name != "statement.json"}
    with pytest.raises(EvidenceError, match=r"statement\.json is missing"):
        verify_evidence(write(without, tmp_path / "without.zip"))

    rewritten = forged(files, tmp_path / "forged.zip", statement={**STATED, "works_chosen": "all"})
    named = "report.json: statement.works_chosen is a scan, the records give all"
    with pytest.raises(EvidenceError, match=re.escape(named)):
        verify_evidence(rewritten)
    longer = forged(files, tmp_path / "longer.zip", statement={**STATED, "rights": "mine"})
    with pytest.raises(EvidenceError, match=r"statement\.rights is None, the records give mine"):
        verify_evidence(longer)


@pytest.mark.parametrize("quoted", [{"run_by": "me"}, {"run_by": {"a": "me"}}, "me", ["me"]])
def test_a_statement_in_the_report_alone_is_refused(
    run: Run, tmp_path: Path, quoted: object
) -> None:
    write_evidence(run, tmp_path / "evidence.zip")
    files = read(tmp_path / "evidence.zip")
    report = json.loads(files["report.json"]) | {"statement": quoted}
    named = r"report\.json: statement.* is me, the records give None"
    with pytest.raises(EvidenceError, match=named):
        verify_evidence(forged(files, tmp_path / "forged.zip", report=report))


def test_packs_from_before_statements_still_pass(run: Run, tmp_path: Path) -> None:
    write_evidence(run, tmp_path / "evidence.zip")
    files = read(tmp_path / "evidence.zip")
    assert "statement.json" not in files
    report = json.loads(files["report.json"])
    assert report.pop("statement") is None
    assert verify_evidence(forged(files, tmp_path / "old.zip", report=report)).unchecked == ()


def test_the_documented_example_is_a_statement(run: Run, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    part = text[text.index("## What only you can state") : text.index("## Audits")]
    (example,) = re.findall(r"```json\n(.*?)```", part, re.DOTALL)
    page = write_report(run, statement=saved(tmp_path / "s.json", example)).read_text()
    assert HEADING in page
    rows = re.findall(r"^\| (`.*?) \|", part, re.MULTILINE)
    assert ", ".join(rows).replace("`", "") == KEYS
