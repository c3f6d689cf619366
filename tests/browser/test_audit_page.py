"""The pages of audits in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audited import audited_run, image_audit_run
from unmemorize import write_report

Open = Callable[..., Any]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_and_axe_finds_nothing(
    tmp_path: Path, open_page: Open, axe: Callable[[Any], list[Any]], scheme: str
) -> None:
    address = write_report(audited_run(tmp_path / "run", None)).as_uri()
    phone = {"width": 390, "height": 800}
    page = open_page(address, viewport=phone, color_scheme=scheme, bypass_csp=True)
    page.locator("summary").first.click()
    meanings = page.locator("details[open] dt")
    assert meanings.first.inner_text() == "L2"
    assert "without bound" in page.locator("details[open]").inner_text()
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert axe(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_the_page_of_images_fits_any_screen(
    tmp_path: Path,
    open_page: Open,
    axe: Callable[[Any], list[Any]],
    picture: Callable[..., None],
    width: int,
    scheme: str,
) -> None:
    run, _ = image_audit_run(tmp_path / "run")
    screen = {"width": width, "height": 900}
    page = open_page(
        write_report(run).as_uri(), viewport=screen, color_scheme=scheme, bypass_csp=True
    )
    picture(page, f"image-audit-{width}-{scheme}", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("article img").count() == 6
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert axe(page) == []
