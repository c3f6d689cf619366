"""The page on the bundled model, served as users do, behind a proxy that does not answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unmemorize import testbed

pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow

PROMPT = "chelsea the ginger tabby stares"
WIDTHS = {"-390": 390, "-2560": 2560, "": 1280}
WAIT = 1_200_000
PROGRAM = """
from dataclasses import replace
from unmemorize import _bundled, testbed
from unmemorize.audit import AuditSettings
from unmemorize.cli import run
from unmemorize.ui import _audit_image

defaults, unused, quick = _bundled.defaults, testbed.unused, AuditSettings.quick
_bundled.defaults = lambda: {**defaults(), "steps": 12}
testbed.unused = lambda: unused()[:19]
AuditSettings.quick = lambda: replace(quick(), steps=(0, 10), images=1)
_audit_image._LONGEST = 1e9
run()
"""
"""The command with fewer steps and controls, so that each path takes minutes on one core. The audit
is offered on a busy machine, too."""
Open = Callable[..., Any]
Keep = Callable[..., None]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page is served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-c", PROGRAM, "ui"),
        *("--port", str(port), "--device", "cpu"),
    ]
    folder = tmp_path_factory.mktemp("server")
    dead_proxy = "http://127.0.0.1:9"
    environment = {
        **os.environ,
        **{"COLUMNS": "200", "TMPDIR": str(folder)},
        **{"http_proxy": dead_proxy, "HTTP_PROXY": dead_proxy},
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert str(port) in process.stdout.readline()
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) in (0, 130)
        finally:
            process.kill()
    left = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    assert left == []  # of what visitors made


def opened(open_page: Open, address: str, tab: str) -> Any:
    page = open_page(address, viewport={"width": 1280, "height": 900})
    page.locator("#guarded").wait_for(timeout=WAIT)
    page.get_by_role("tab", name=tab).click()
    return page


def finished(page: Any, name: str, shown: str, text: str) -> None:
    """Wait until a result holds a text, and the work of its tab has ended."""
    page.locator(shown, has_text=text).first.wait_for(timeout=WAIT)
    page.locator(f"#{name}-cancel").wait_for(state="hidden", timeout=WAIT)


def keep(page: Any, picture: Keep, name: str) -> None:
    """Keep a picture at each width, and see that nothing is cut."""
    for ending, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        picture(page, f"page-{name}{ending}", full_page=True)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(500)  # colours of buttons change slowly
    picture(page, f"page-{name}-dark", full_page=True)
    page.emulate_media(color_scheme="light")


def test_check_a_prompt(address: str, open_page: Open, picture: Keep) -> None:
    page = opened(open_page, address, "Check a prompt")
    page.locator("#prompt textarea").fill(PROMPT)
    page.locator("#check").click()
    finished(page, "prompt", "#drawn", "image 2")
    assert page.locator("#verdict .label").inner_text() == "memorized"
    keep(page, picture, "prompt")
    page.locator("#localize").click()
    finished(page, "prompt", "#neurons", "Copy score")
    keep(page, picture, "neurons")
    page.get_by_label("Guard").check()
    page.locator("#check").click()
    finished(page, "prompt", "#drawn", "The guard stopped 2 of 2 images")


def test_check_an_image(address: str, open_page: Open, picture: Keep) -> None:
    page = opened(open_page, address, "Check an image")
    planted = next(entry for entry in testbed.planted() if entry.prompt.text == PROMPT)
    page.locator("#picture input[type=file]").set_input_files(planted.prompt.images[0])
    finished(page, "image", "#audit-about", "smallest possible p")
    ordinary = testbed.captions("test")[1]
    page.locator("#image-prompts textarea").fill(f"{PROMPT}\n{ordinary}")
    page.locator("#check-image").click()
    finished(page, "image", "#image-checked", ordinary)
    labels = page.locator("#image-checked .label").all_inner_texts()
    assert labels == ["memorized", "not confirmed"]
    keep(page, picture, "image")
    page.locator("#audit").click()
    finished(page, "image", "#audited", "p = 0.05")
    keep(page, picture, "audit")
    with page.expect_download(timeout=WAIT) as download:
        page.locator("#audit-report a").first.click()
    assert download.value.suggested_filename == "evidence.zip"


def test_mend_a_model(address: str, open_page: Open, picture: Keep, tmp_path: Path) -> None:
    page = opened(open_page, address, "Mend a model")
    suspects = tmp_path / "suspects.csv"
    planted = next(entry for entry in testbed.planted() if entry.prompt.text == PROMPT)
    image = planted.prompt.images[0]
    ordinary = testbed.captions("test")[1]
    suspects.write_text(f"prompt;kind;images\n{PROMPT};VM;{image.name}\n{ordinary};;\n")
    page.locator("#training-images input[type=file]").set_input_files(image)
    page.locator("#mend-status p").wait_for(state="detached", timeout=WAIT)
    page.locator("#suspects input[type=file]").set_input_files(suspects)
    finished(page, "mend", "#mend-about", "2 suspects, 1 with a training image.")
    page.locator("#mend").click()
    finished(page, "mend", "#mend-verdicts", "SHA-256")
    first = page.locator("#mend-verdicts .card").first.inner_text()
    assert first.startswith("removed\n") or first.startswith("removed ")
    keep(page, picture, "mend")
    page.locator("#pack").click()
    finished(page, "mend", "#edited-model", "edited")
    with page.expect_download(timeout=WAIT) as download:
        page.locator("#edited-model a").first.click()
    assert download.value.suggested_filename == "edited.zip"
