"""The report of a mitigation in a browser: widths, print, keyboard, screen readers, and size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mitigated_run import mitigated_run
from unmemorize import write_report

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report."""
    return write_report(mitigated_run(tmp_path_factory.mktemp("report"))).as_uri()


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow), 2560])
def test_the_page_fits_with_everything_open(
    report: str, open_page: Open, picture: Callable[..., None], width: int
) -> None:
    page = open_page(report, viewport={"width": width, "height": 900})
    picture(page, f"mitigation-{width}")
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = [page.locator("article").nth(number).bounding_box() for number in (0, 1)]
    assert (boxes[0]["y"] == boxes[1]["y"]) == (width == 2560)  # side by side on a wide screen
    front = page.locator(".front").first.locator("figure")
    rows = {round(front.nth(number).bounding_box()["y"]) for number in range(4)}
    assert len(rows) == (2 if width == 390 else 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(report: str, open_page: Open, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(report, color_scheme=scheme, bypass_csp=True)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    found = axe.run(page).response
    assert len(found["passes"]) > 15
    problems = [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]]
    assert problems == []


def test_the_keyboard_is_enough(report: str, open_page: Open) -> None:
    page = open_page(report)
    summary = page.locator("article summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("article details[open]").count() == 1
    page.get_by_role("link", name="Annex for regulators").press("Enter")
    assert page.url.endswith("#annex")
    focusable = page.locator(".table[tabindex='0'][aria-label]").count()
    assert focusable == page.locator(".table").count()


@pytest.mark.parametrize("scripts", [pytest.param(True, marks=pytest.mark.slow), False])
def test_print_shows_what_is_closed(report: str, open_page: Open, scripts: bool) -> None:
    page = open_page(report, java_script_enabled=scripts)
    hashes = page.locator("article details dd code")
    assert page.locator("details[open]").count() == 0
    assert not hashes.first.is_visible()
    page.emulate_media(media="print")
    assert hashes.first.is_visible()
    closed = page.locator("details dl, details tr")
    assert closed.count() > 20
    assert all(closed.nth(number).is_visible() for number in range(closed.count()))
    tables = page.locator(".table")
    overflow = "each => getComputedStyle(each).overflowX"
    assert {tables.nth(n).evaluate(overflow) for n in range(tables.count())} == {"visible"}
    assert not page.locator("nav").is_visible()


def test_print_keeps_every_row_and_column(report: str, open_page: Open) -> None:
    """On a page of A4 without its margins, at 96 dots per inch."""
    page = open_page(report, viewport={"width": 688, "height": 1017})
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cells = page.locator("#numbers ~ .table >> nth=0").locator("tr:first-child > *")
    edges = [cells.nth(number).bounding_box() for number in range(cells.count())]
    assert max(edge["x"] + edge["width"] for edge in edges) <= 688


@pytest.mark.slow
def test_five_hundred_memorized_prompts(tmp_path: Path, open_page: Open) -> None:
    path = write_report(mitigated_run(tmp_path, memorized=500, side=256))
    page = open_page(path.as_uri())
    assert page.locator("article").count() == 500
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].duration")
    megabytes = path.stat().st_size / 1e6
    print(f"\nreport of 500 memorized prompts: {megabytes:.1f} MB, loaded in {timing:.0f} ms")
    assert megabytes < 50
    assert timing < 2000
