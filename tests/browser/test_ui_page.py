"""The page in a real browser, along each of its paths, on a tiny pipeline in this process."""

from __future__ import annotations

import io
import socket
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import PLANTED_PROMPT, PROMPTS
from studio import OTHER_PROMPT, flat_picture, planted_studio
from unmemorize import GuardThreshold, NeuronFile, calibrate_guard, load_pipeline, verify
from unmemorize.ui import _audit_image, _check_prompt

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")

from unmemorize.ui import _serve  # noqa: E402
from unmemorize.ui._page import build  # noqa: E402

WAIT = 60_000
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
    guard = calibrate_guard(studio.model, PROMPTS, steps=studio.generation.steps)
    loading: Future[Any] = Future()
    page = build(loading)
    page.queue()

    def level(*_: Any, **__: Any) -> GuardThreshold:
        return replace(guard, tau=0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "visitors"))
        patch.setattr(_check_prompt, "default_guard_threshold", level)
        try:
            where = _serve._launch(page, port)
            loading.set_result(studio)
            yield where.rstrip("/")
        finally:
            page.close(verbose=False)
            studio.close()


def choose(page: Any, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def finished(page: Any, name: str) -> None:
    """Wait until work of a tab has begun and ended."""
    page.locator(f"#{name}-cancel").wait_for(state="visible", timeout=WAIT)
    page.locator(f"#{name}-cancel").wait_for(state="hidden", timeout=WAIT)


def check(page: Any, prompt: str) -> None:
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#check").click()
    finished(page, "prompt")
