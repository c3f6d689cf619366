"""The page on the bundled model, served as users do, behind a proxy that does not answer."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from unmemorize import NeuronFile, testbed

playwright = pytest.importorskip("playwright.sync_api")

PROMPT = "chelsea the ginger tabby stares"
WAIT = 120_000
HOSTILE = (
    "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script> & 🦓"
)

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page is served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-c", "from unmemorize.cli import run; run()", "ui"),
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


def sources(page: Any, gallery: str) -> list[str]:
    """The addresses of the images of a gallery. Other content has another address."""
    images = page.locator(f"#{gallery} img")
    images.first.wait_for(timeout=WAIT)
    return [images.nth(number).get_attribute("src") for number in range(images.count())]


def pixels(page: Any, gallery: str) -> list[bytes]:
    return [page.request.get(source).body() for source in sources(page, gallery)]


def ask(page: Any, prompt: str) -> None:
    page.locator("#prompt textarea").fill(prompt)


def choose(page: Any, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def complained(page: Any, button: str, message: str) -> None:
    """Press a button and wait for a sentence. Gradio ignores it while another request ends."""
    for _ in range(10):
        page.locator(button).click()
        with suppress(playwright.TimeoutError):
            page.locator(".toast-body", has_text=message).first.wait_for(timeout=WAIT / 10)
            return
    raise AssertionError(f"{button} did not say: {message}")


def localize(page: Any) -> None:
    """Localize the neurons of a memorized prompt."""
    ask(page, PROMPT)
    choose(page, "Localize")
    page.locator("#localize").click()
    page.locator("#off input[type=checkbox]").first.wait_for(timeout=WAIT)
    sources(page, "after")


def test_probe(address: str, open_page: Open, picture: Callable[..., None]) -> None:
    page = open_page(address, viewport={"width": 1100, "height": 1000})
    ask(page, PROMPT)
    page.locator("#probe").click()
    page.get_by_text("Memorized.").wait_for(timeout=WAIT)
    assert len(sources(page, "probed")) == 2
    assert re.search(
        r"similarity between two seeds 0\.\d+, tau 0\.\d+", page.locator("#gauge").inner_text()
    )
    picture(page, "ui-probe")
    ask(page, testbed.captions("test")[1])
    page.locator("#probe").click()
    page.get_by_text("No memorization seen.").wait_for(timeout=WAIT)


def test_localize_switch_and_export(
    address: str, open_page: Open, picture: Callable[..., None], tmp_path: Path
) -> None:
    page = open_page(address, viewport={"width": 1100, "height": 1270})
    localize(page)
    before, after = pixels(page, "before"), pixels(page, "after")
    assert len(before) == len(after) == 2
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert "Copy score" in page.locator("#copies").inner_text()
    assert page.locator("#about textarea").input_value() == PROMPT
    assert "Warning" not in page.locator("#copies").inner_text()
    picture(page, "ui-localize")
    boxes = page.locator("#off input[type=checkbox]")
    count = boxes.count()
    choose(page, "Export")
    page.locator("#make-neurons").click()
    with page.expect_download(timeout=WAIT) as download:
        page.locator("#file-neurons a").first.click(timeout=WAIT)
    download.value.save_as(tmp_path / "neurons.json")
    saved = NeuronFile.load(tmp_path / "neurons.json")
    assert len(saved.neurons) == count
    choose(page, "Localize")
    boxes.first.uncheck()
    first_on = compared(page)
    assert first_on != after
    if count > 1:
        assert first_on != before
        for number in range(1, count):
            boxes.nth(number).uncheck()
        assert compared(page) == before
    choose(page, "Export")
    complained(page, "#make-neurons", "no neuron is chosen")
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "neurons.json")
    choose(page, "Localize")
    page.wait_for_function(
        "count => document.querySelectorAll('#off input:checked').length === count",
        arg=count,
        timeout=WAIT,
    )
    page.locator("#factor input[type=number]").fill("0.5")
    page.locator("#factor input[type=number]").press("Tab")
    half = compared(page)
    assert half not in (before, after)
    choose(page, "Export")
    page.locator("#make-lora").click()
    with page.expect_download(timeout=WAIT) as download:
        page.locator("#file-lora a").first.click(timeout=WAIT)
    assert download.value.suggested_filename.endswith(".safetensors")
    complained(page, "#make-report", "these neurons are from a file")
    choose(page, "Localize")
    page.locator("#localize").click()  # at the strength that the slider shows
    page.get_by_text("localized.").wait_for(timeout=WAIT)
    assert pixels(page, "after") == half
    choose(page, "Export")
    page.locator("#make-report").click()
    with page.expect_download(timeout=WAIT) as download:
        page.locator("#file-report a").first.click(timeout=WAIT)
    download.value.save_as(tmp_path / "report.html")
    assert PROMPT in (tmp_path / "report.html").read_text(encoding="utf-8")


def compared(page: Any) -> list[bytes]:
    """Press Compare and return the new images of the neurons as chosen."""
    old = sources(page, "after")
    page.locator("#compare").click()
    page.wait_for_function(
        "old => document.querySelector('#after img').src !== old", arg=old[0], timeout=WAIT
    )
    return pixels(page, "after")


def test_cancel_ends_the_work(address: str, open_page: Open) -> None:
    """Gradio alone leaves the work running, and the next request would wait for it."""
    page = open_page(address)
    page.locator("#images input[type=number]").fill("8")
    page.locator("#images input[type=number]").press("Tab")
    ask(page, testbed.captions("test")[2])
    page.locator("#probe").click()
    progress = page.locator("#probed .progress-text, #probed .progress-level").first
    progress.wait_for(timeout=WAIT)
    page.locator("#cancel").click()
    progress.wait_for(state="hidden", timeout=WAIT)
    assert page.locator("#probed img").count() == 0
    page.locator("#images input[type=number]").fill("1")
    page.locator("#images input[type=number]").press("Tab")
    page.locator("#probe").click()
    assert len(sources(page, "probed")) == 1


def test_controls_show_only_with_neurons(address: str, open_page: Open) -> None:
    page = open_page(address)
    choose(page, "Localize")
    for control in ("#off", "#factor", "#compare", "#before"):
        assert not page.locator(control).is_visible()
    localize(page)
    for control in ("#off", "#factor", "#compare", "#before"):
        assert page.locator(control).is_visible()
    ask(page, testbed.captions("test")[1])
    page.locator("#localize").click()
    page.get_by_text("Not memorized").wait_for(timeout=WAIT)
    page.locator("#compare").wait_for(state="hidden", timeout=WAIT)
    assert not page.locator("#off").is_visible()
    choose(page, "Export")
    complained(page, "#make-neurons", "no neuron is chosen")


def test_an_error_shows_once(address: str, open_page: Open) -> None:
    page = open_page(address)
    ask(page, "")
    for tab, button in (("Probe", "#probe"), ("Localize", "#localize")):
        choose(page, tab)
        complained(page, button, "there is no prompt")
        page.locator("span.error:visible").first.wait_for(timeout=WAIT)
        assert page.get_by_role("tabpanel").locator("span.error:visible").count() == 1
        assert page.locator(".toast-body").count() == 1
        page.locator(".toast-close").click()
        page.locator(".toast-body").wait_for(state="hidden", timeout=WAIT)


def test_what_visitors_type_stays_text(address: str, open_page: Open) -> None:
    page = open_page(address)
    for prompt in (HOSTILE, "x" * 10_000):
        ask(page, prompt)
        old = page.locator("#gauge").inner_text()
        page.locator("#probe").click()
        page.wait_for_function(
            "old => document.querySelector('#gauge').innerText !== old", arg=old, timeout=WAIT
        )
        assert page.title() == "unmemorize"
    for prompt, message in (
        ("  ", "there is no prompt"),
        ("x" * 10_001, "the prompt has 10001 characters"),
    ):
        ask(page, prompt)
        complained(page, "#probe", message)
    choose(page, "Export")
    for key in ("neurons", "lora", "report"):
        complained(page, f"#make-{key}", "Nothing is localized yet")


def test_visitors_do_not_see_each_other(address: str, open_page: Open) -> None:
    first, second = open_page(address), open_page(address)
    localize(first)
    choose(second, "Localize")
    assert second.locator("#off input[type=checkbox]").count() == 0
    choose(second, "Export")
    complained(second, "#make-neurons", "Nothing is localized yet")


def test_only_this_machine_and_no_other_files(address: str, open_page: Open) -> None:
    port = int(address.rsplit(":", 1)[1])
    listening = [
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    assert f"0100007F:{port:04X}" in listening
    assert f"00000000:{port:04X}" not in listening
    page = open_page(address)
    for path in ("/etc/passwd", str(testbed.path() / "model_index.json"), "/tmp/../etc/passwd"):
        answer = page.request.get(f"{address}/gradio_api/file={path}")
        assert answer.status in (403, 404)
        assert "root:" not in answer.text()
