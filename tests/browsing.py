"""A real browser: Debian's Chromium, driven by Playwright.

The variable SCREENSHOTS names a folder in which pictures of pages are kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PATIENCE = 300_000
"""Milliseconds: a loaded machine is no failure."""
LOCAL = ("file:", "data:", "blob:", "http://127.0.0.1:")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium. Skips the test where there is none, but not in CI."""
    program = shutil.which("chromium")
    if program is None and os.environ.get("CI"):
        pytest.fail("there is no chromium: apt-get install chromium")
    if program is None:
        pytest.skip("there is no chromium: make test-ui installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages. They must not log errors, nor load anything from another machine."""
    contexts, problems = [], []

    def opened(address: str, **options: Any) -> Any:
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on(
            "console",
            lambda message: problems.append(message.text) if message.type == "error" else None,
        )

        def keep_local(route: Any) -> None:
            if route.request.url.startswith(LOCAL):
                route.continue_()
            else:
                problems.append(f"loads {route.request.url}")
                route.abort()

        context.route("**/*", keep_local)
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def axe() -> Callable[[Any], list[tuple[str, str, str]]]:
    """Tells problems of access on a page: their impact, name and first element.

    Skips the test where axe-core is missing, but not in CI.
    """
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        if os.environ.get("CI"):
            pytest.fail("there is no axe-core: pip install axe-playwright-python")
        pytest.skip("there is no axe-core: make test-ui installs it")

    def problems(page: Any) -> list[tuple[str, str, str]]:
        found = Axe().run(page).response
        assert len(found["passes"]) > 10
        return [
            (each["impact"], each["id"], each["nodes"][0]["html"]) for each in found["violations"]
        ]

    return problems


def loading_work(page: Any, path: Path) -> Mapping[str, float]:
    """Load a page, and return what Chromium counts: layout objects, seconds of CPU time, ...

    Unlike the time that passes, these change little with what else runs on the machine.
    """
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(path.as_uri())
    counted = session.send("Performance.getMetrics")["metrics"]
    work = {each["name"]: each["value"] for each in counted}
    passed = page.evaluate("performance.getEntriesByType('navigation')[0].duration")
    megabytes, spent = path.stat().st_size / 1e6, 1000 * work["TaskDuration"]
    print(f"\n{megabytes:.1f} MB, loaded in {passed:.0f} ms, {spent:.0f} ms of CPU time,", end=" ")
    print(f"{work['LayoutObjects']} layout objects")
    return work


@pytest.fixture
def picture() -> Callable[..., None]:
    """Keeps a picture of a page under a name, where SCREENSHOTS is set."""

    def keep(page: Any, name: str, **options: Any) -> None:
        folder = os.environ.get("SCREENSHOTS")
        if folder:
            path = Path(folder) / f"{name}.jpg"
            page.screenshot(path=path, type="jpeg", quality=80, timeout=PATIENCE, **options)

    return keep
