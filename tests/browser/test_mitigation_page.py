"""The report of a mitigation in a browser: widths, print, keyboard, screen readers, and size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from browsing import loading_work
from mitigated_run import mitigated_run
from unmemorize import write_report
from unmemorize.report._reproduced import record_reproduced

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report."""
    run = mitigated_run(tmp_path_factory.mktemp("report"))
    record_reproduced(run)
    return write_report(run).as_uri()


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
def test_axe_finds_nothing(
    report: str, open_page: Open, axe: Callable[[Any], list[Any]], scheme: str
) -> None:
    page = open_page(report, color_scheme=scheme, bypass_csp=True)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert axe(page) == []


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
    verdict = page.locator("article .top").filter(has=page.locator(".tags")).first
    assert verdict.locator(".front img").count() == 5  # no page break tears them from the verdict
    assert verdict.evaluate("each => getComputedStyle(each).breakInside") == "avoid"
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


def test_pictures_of_closed_details_wait(report: str, open_page: Open) -> None:
    page = open_page(report)
    details = page.locator("article details")
    assert details.locator("img").count() == 0
    details.first.locator("summary").click()
    shown = details.first.locator("img")
    shown.first.wait_for()
    # training, before, after, fresh, random, shown again, steps
    assert shown.count() == 1 + 4 + 4 + 6 + 2 + 2 + 1
    shown.last.scroll_into_view_if_needed()
    page.wait_for_function("image => image.naturalWidth > 0", arg=shown.last.element_handle())
    assert details.nth(1).locator("img").count() == 0
    details.first.locator("summary").click()
    details.first.locator("summary").click()
    assert shown.count() == 20  # not twice


@pytest.mark.parametrize("scripts", [True, False])
def test_a_pdf_has_every_picture(
    report: str, open_page: Open, tmp_path: Path, scripts: bool
) -> None:
    pictures = Path(unquote(urlsplit(report).path)).read_text(encoding="utf-8").count("<img ")
    page = open_page(report, java_script_enabled=scripts)
    assert (page.locator("img").count() < pictures) == scripts
    content = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert content.count(b"/Subtype /Image") == pictures
    assert page.locator("details[open]").count() == 0


@pytest.mark.slow
def test_five_hundred_memorized_prompts(tmp_path: Path, open_page: Open) -> None:
    """Where nothing else runs, 0.7 s pass until everything is loaded."""
    path = write_report(mitigated_run(tmp_path, memorized=500, side=128))
    assert path.stat().st_size < 50e6
    page = open_page("about:blank")
    work = loading_work(page, path)
    assert page.locator("article").count() == 500
    assert page.locator("img").count() < 3000
    loaded = "Array.from(document.images).filter(image => image.naturalWidth).length"
    assert 0 < page.evaluate(loaded) < 500
    assert work["LayoutObjects"] < 10_000
    assert work["TaskDuration"] < 1.5
