"""The page of an audit of images."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import escape

from audited import image_audit_run
from colours import noise
from records import HOSTILE
from unmemorize import RunError, write_report
from unmemorize.report._numbers import flat
from unmemorize.runs import hash_of_file


def unmarked(page: str) -> str:
    """The page without the names of its numbers."""
    return " ".join(re.sub("</?data[^>]*>", "", page).split())


def test_the_page_says_what_was_found_and_how_sure_that_is(tmp_path: Path) -> None:
    run, result = image_audit_run(tmp_path / "run")
    assert [finding.found for finding in result.findings] == [True, True, False]
    page = unmarked(write_report(run).read_text())
    assert "<h1>2 of 3 images come back more easily" in page
    titles = re.findall(r"<h3>(\w+)\.png</h3>", page)
    assert titles == ["early", "late", "never"]
    assert "after 5 steps of the attack (121 denoiser samples)" in page
    verdicts = re.findall(r'<p class="tags"><span class="tag( warn)?">(.*?)</span>', page)
    assert verdicts == [
        (" warn", "found: copied at 5 steps, p = 0.04 (0.06 for all 3 images together)"),
        (" warn", "found: copied at 25 steps, p = 0.04 (0.06 for all 3 images together)"),
        ("", "not found: never copied, p = 1 (1 for all 3 images together)"),
    ]
    for name in titles:
        assert hash_of_file(tmp_path / f"{name}.png") in page
    rows = re.findall(r'<th scope="row">(\d+)</th><td>(\d) of 3</td><td>(\d) of 24</td>', page)
    assert rows == [("0", "0", "0"), ("5", "1", "0"), ("25", "2", "2")]
    assert "24 controls: the smallest possible p is 0.04. At a false discovery rate of 0.1" in page
    assert "said to be never trained on" in page
    assert len(re.findall(r'<img [^>]*src="data:', page)) == 6
    assert 'href="edited-L4/00001-0025.png"' in page
    assert "<script" not in page


def test_its_numbers_lie_beside_it(tmp_path: Path) -> None:
    run, result = image_audit_run(tmp_path / "run")
    page = write_report(run).read_text()
    numbers = json.loads((run.folder / "report.json").read_text())
    assert (numbers["images"], numbers["found"], numbers["controls"]) == (3, 2, 24)
    assert numbers["copied"][2] == {"budget": 25, "images": 2, "controls": 2}
    named = flat(numbers)
    for name in re.findall('data-of="([^"]*)"', page):
        assert name in named
    with (run.folder / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for row, number, finding in zip(rows, numbers["findings"], result.findings, strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in number.items()}
        assert (number["p"], number["work"]) == (finding.p, finding.work)


def test_a_redacted_page_has_neither_images_nor_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["unmemorize", "audit", "--image", "early.png"])
    run, _ = image_audit_run(tmp_path / "run")
    page = write_report(run, redact=True).read_text()
    assert "<img" not in page
    assert "edited-L4/" not in page
    assert re.findall(r"<h3>(Image \d)</h3>", unmarked(page)) == ["Image 1", "Image 0", "Image 2"]
    for name in ("report.json", "report.csv"):
        assert "early.png" not in (run.folder / name).read_text()
    assert hash_of_file(tmp_path / "early.png") in page
    assert not re.search(r"(early|late|never)\.png", page)
    assert run.manifest.command not in page
    assert run.manifest.command in write_report(run).read_text()


def test_names_of_files_are_escaped(tmp_path: Path) -> None:
    run, result = image_audit_run(tmp_path / "run")
    first, *others = result.findings
    hostile = replace(result, findings=(replace(first, file=HOSTILE), *others))
    run.write("images.json", json.dumps(hostile.to_json()))
    page = write_report(run).read_text()
    assert HOSTILE not in page
    assert f"<h3>{escape(HOSTILE)}</h3>" in unmarked(page)


@pytest.mark.parametrize(
    ("found", "asked", "needed", "headline"),
    [
        (True, 1, 1, "The image comes back more easily"),
        (False, 1, 1, "The image does not come back more easily"),
        (False, 2, 2, "None of 2 images comes back more easily"),
        (True, 2, 2, "1 of 2 images comes back more easily"),
        (False, 1, 2, "Too few controls to find the image<"),
        (False, 2, 3, "Too few controls to find any of 2 images<"),
    ],
)
def test_headlines(tmp_path: Path, found: bool, asked: int, needed: int, headline: str) -> None:
    run, result = image_audit_run(tmp_path / "run")
    late, _, never = result.findings
    findings = (replace(late, found=found), replace(never, found=False))[:asked]
    few = replace(result, findings=findings, needed=needed)
    run.write("images.json", json.dumps(few.to_json()))
    for kind in ("edited-L4",):
        lines = (run.folder / f"{kind}.jsonl").read_text().splitlines(keepends=True)
        (run.folder / f"{kind}.jsonl").write_text("".join(lines[:3] + lines[6:][: 3 * (asked - 1)]))
    page = unmarked(write_report(run).read_text())
    assert f"<h1>{headline}" in page
    assert (">too few controls: " in page) == (needed > asked)
    assert (">not found: " in page) == (needed <= asked and not (found and asked == 1))


@pytest.mark.parametrize("change", ["changed since", "no longer where it was"])
def test_an_image_that_is_not_the_one_of_the_audit_is_not_shown(
    tmp_path: Path, change: str
) -> None:
    run, _ = image_audit_run(tmp_path / "run")
    if change == "changed since":
        noise(50, (32, 32)).save(tmp_path / "late.png")
    else:
        (tmp_path / "late.png").unlink()
    page = write_report(run).read_text()
    assert page.count(change) == 1
    assert page.count("<img") == 5


def test_an_unfinished_audit_is_refused(tmp_path: Path) -> None:
    run, _ = image_audit_run(tmp_path / "run")
    (run.folder / "images.json").unlink()
    with pytest.raises(RunError, match=r"images\.json"):
        write_report(run)
