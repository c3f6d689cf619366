"""The page of an audit in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audited import audited_run
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
