"""The page in a real browser, along each of its paths, on a tiny pipeline in this process."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

import pytest

from conftest import PLANTED_PROMPT, PROMPTS
from studio import OTHER_PROMPT, planted_studio
from unmemorize import GuardThreshold, NeuronFile, calibrate_guard
from unmemorize.ui import _audit_image, _check_prompt

pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")

from unmemorize.ui import _serve
from unmemorize.ui._page import build

# Gradio uses what pandas deprecates, in its own thread
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

HOSTILE = (
    "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script> & 🦓"
)
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where the page of a tiny model is served, whose guard stops every image."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    studio = planted_studio(folder)
    guard = calibrate_guard(studio.model, PROMPTS)
    loading: Future[Any] = Future()

    def level(*_: Any, **__: Any) -> GuardThreshold:
        return replace(guard, tau=0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "visitors"))
        patch.setattr(_check_prompt, "default_guard_threshold", level)
        patch.setattr(_audit_image, "_LONGEST", float("inf"))
        page = build(loading)
        page.queue()
        try:
            where = _serve._launch(page, port)
            loading.set_result(studio)
            yield where.rstrip("/")
        finally:
            page.close(verbose=False)
            studio.close()


def choose(page: Any, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def finished(page: Any, name: str, shown: str, text: str) -> None:
    """Wait until a result holds a text, and the work of its tab has ended."""
    page.locator(shown, has_text=text).first.wait_for()
    page.locator(f"#{name}-cancel").wait_for(state="hidden")


def check(page: Any, prompt: str) -> None:
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#check").click()
    finished(page, "prompt", "#verdict", prompt)


def said(page: Any, name: str) -> str:
    """The one message of a tab, which no other element repeats."""
    message = page.locator(f"#{name}-status p[role]")
    message.wait_for()
    text = str(message.inner_text())
    assert page.get_by_text(text, exact=True).count() == 1
    assert page.locator(".toast-body").count() == 0
    return text


def test_check_a_prompt(address: str, open_page: Open, tmp_path: Path) -> None:
    page = open_page(address, viewport={"width": 820, "height": 1000})
    page.locator("#guarded").wait_for()
    for early in ("#verdict", "#drawn", "#localize", "#switches", "#prompt-cancel"):
        assert not page.locator(early).is_visible()
    page.locator("#check").click()
    page.get_by_text("there is no prompt").wait_for()
    assert said(page, "prompt") == "there is no prompt. Type one."
    check(page, HOSTILE)
    assert page.title() == "unmemorize"
    assert HOSTILE in page.locator("#verdict").inner_text()
    assert page.locator("#prompt-status").inner_text().strip() == ""
    check(page, OTHER_PROMPT)
    assert "not memorized" in page.locator("#verdict").inner_text()
    assert not page.locator("#localize").is_visible()
    check(page, PLANTED_PROMPT)
    assert page.locator("#verdict .label").inner_text() == "memorized"
    assert page.locator("#drawn img").last.is_visible()
    assert page.locator("#drawn img").count() == 5  # three training images, and two
    assert "image 1, copy score 1.00" in page.locator("#drawn").inner_text()
    choose(page, "Check an image")
    choose(page, "Check a prompt")
    assert page.locator("#drawn img").count() == 5  # results stay
    page.locator("#localize").click()
    finished(page, "prompt", "#neurons", "neurons found")
    assert page.locator("#neurons img").count() == 4
    page.get_by_role("button", name="Switch them one by one").click()
    boxes = page.locator("#off input[type=checkbox]")
    boxes.first.wait_for()
    count = boxes.count()
    boxes.first.uncheck()
    page.locator("#compare").click()
    finished(page, "prompt", "#neurons", f"{count} neurons found. {count - 1} off.")
    with page.expect_download() as download:
        page.locator("#neuron-file").click()
    download.value.save_as(tmp_path / "neurons.json")
    assert len(NeuronFile.load(tmp_path / "neurons.json").neurons) == count - 1
    page.get_by_label("Guard").check()
    page.locator("#check").click()
    finished(page, "prompt", "#drawn", "The guard stopped 2 of 2 images")
    assert page.locator("#drawn .stopped").count() == 2
    assert page.locator("#neurons").inner_text().strip() == ""


def test_the_page_is_as_wide_without_results(address: str, open_page: Open) -> None:
    """Fields would jump under the pointer when the first verdict comes."""
    page = open_page(address, viewport={"width": 1280, "height": 900})
    page.locator("#guarded").wait_for()
    before = page.locator("#prompt").bounding_box()
    check(page, PLANTED_PROMPT)
    assert page.locator("#localize").is_visible()
    after = page.locator("#prompt").bounding_box()
    assert (before["x"], before["width"]) == (after["x"], after["width"])
    assert before["width"] > 800


def test_check_an_image(address: str, folder: Path, open_page: Open) -> None:
    page = open_page(address, viewport={"width": 390, "height": 900})
    choose(page, "Check an image")
    upload = page.locator("#picture input[type=file]")
    assert not page.locator("#check-image").is_visible()
    text = folder / "text.png"
    text.write_text("no image")
    upload.set_input_files(text)
    finished(page, "image", "#image-status [role=alert]", "text.png")
    assert "text.png" in said(page, "image")
    assert not page.locator("#check-image").is_visible()
    page.locator("#picture").get_by_role("button", name="Clear").click()
    page.locator("#image-status p").wait_for(state="detached")
    upload.set_input_files(folder / "training.png")
    finished(page, "image", "#audit-about", "smallest possible p is 0.0")
    assert page.locator("#audit").is_visible()
    assert page.locator("#preview img").is_visible()
    page.locator("#image-prompts textarea").fill(f"{PLANTED_PROMPT}\n{OTHER_PROMPT}")
    page.locator("#check-image").click()
    finished(page, "image", "#image-checked", OTHER_PROMPT)
    labels = page.locator("#image-checked .label")
    assert labels.all_inner_texts() == ["memorized", "not confirmed"]
    assert page.locator("#image-checked img").count() == 8
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_mend_a_model(address: str, open_page: Open, tmp_path: Path) -> None:
    page = open_page(address, viewport={"width": 1440, "height": 900})
    choose(page, "Mend a model")
    assert not page.locator("#mend").is_visible()
    page.locator("#take-examples").click()
    finished(page, "mend", "#mend-about", "2 suspects, 1 with a training image.")
    page.locator("#mend").click()
    page.locator("#mend-cancel").click()
    page.get_by_text("Cancelled.").wait_for()
    assert said(page, "mend") == "Cancelled."
    assert not page.locator("#mend-files").is_visible()
    page.locator("#mend").click()
    finished(page, "mend", "#mend-verdicts", "SHA-256")
    cards = page.locator("#mend-verdicts .card")
    assert cards.count() == 2
    assert PLANTED_PROMPT in cards.first.inner_text()
    assert cards.first.locator("img").count() == 3  # training image, before, after
    assert "so nothing was drawn" in cards.last.inner_text()
    assert page.locator("#mend-files a").count() > 1
    assert page.get_by_role("button", name="Remove this file").count() == 0
    page.set_viewport_size({"width": 390, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    with page.expect_download() as download:
        page.locator("#mend-files tr", has_text="evidence").locator("a").first.click()
    pack = tmp_path / "evidence.zip"
    download.value.save_as(pack)
    digest = hashlib.sha256(pack.read_bytes()).hexdigest()
    assert digest in page.locator("#mend-verdicts").inner_text()
    choose(page, "Check a prompt")
    choose(page, "Mend a model")
    assert cards.count() == 2


def test_the_keyboard_is_enough(address: str, open_page: Open) -> None:
    page = open_page(address, viewport={"width": 390, "height": 900})
    page.locator("#guarded").wait_for()
    page.locator("#prompt textarea").fill(OTHER_PROMPT)
    page.get_by_label("Guard").focus()
    page.keyboard.press("Space")
    assert page.get_by_label("Guard").is_checked()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "check"
    page.keyboard.press("Enter")
    finished(page, "prompt", "#verdict", OTHER_PROMPT)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("tab", name="Check an image").focus()
    page.keyboard.press("Enter")
    page.locator("#picture").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    address: str, open_page: Open, axe: Callable[[Any], list[Any]], scheme: str
) -> None:
    page = open_page(address, color_scheme=scheme, bypass_csp=True)
    page.locator("#guarded").wait_for()
    check(page, PLANTED_PROMPT)
    for tab in ("Check a prompt", "Check an image", "Mend a model"):
        page.get_by_role("tab", name=tab).click()
        problems = [each for each in axe(page) if each[0] in ("serious", "critical")]
        assert problems == [], tab


def test_visitors_do_not_see_each_other(address: str, open_page: Open) -> None:
    first, second = open_page(address), open_page(address)
    first.locator("#guarded").wait_for()
    second.locator("#guarded").wait_for()
    check(first, OTHER_PROMPT)
    assert not second.locator("#verdict").is_visible()


def test_only_this_machine_and_no_other_files(address: str, folder: Path) -> None:
    port = int(address.rsplit(":", 1)[1])
    listening = [
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    assert f"0100007F:{port:04X}" in listening
    assert f"00000000:{port:04X}" not in listening
    direct = build_opener(ProxyHandler({}))
    for path in ("/etc/passwd", str(folder / "training.png"), "/tmp/../etc/passwd"):
        with pytest.raises(HTTPError) as refused:
            direct.open(f"{address}/gradio_api/file={quote(path)}")
        refused.value.close()
        assert refused.value.code in (403, 404)
