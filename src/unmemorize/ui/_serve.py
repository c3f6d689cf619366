"""Serve the page to this machine alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = (
    "False"  # before Gradio is imported, which asks for news then
)

from unmemorize._errors import ModelError
from unmemorize.ui._page import CSS, THEME, build

if TYPE_CHECKING:
    from unmemorize.ui._studio import Studio

HOST = "127.0.0.1"


def serve(load: Callable[[], Studio], port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C. It opens at once, and its visitors wait for the model.

    Args:
        load: loads the model.
        port: of this machine.
        ready: called with the address when it can be opened.

    Raises:
        ModelError: the port is taken.
        UnmemorizeError: what ``load`` raises.
    """
    with TemporaryDirectory(prefix="unmemorize-page-") as shown:
        os.environ["GRADIO_TEMP_DIR"] = shown  # images that are shown go there, and with the page
        loading: Future[Studio] = Future()
        page = build(loading)
        page.queue(max_size=32, default_concurrency_limit=1)
        try:
            _, address, _ = page.launch(
                server_name=HOST,
                server_port=port,
                share=False,
                inbrowser=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                theme=THEME,
                css=CSS,
                footer_links=[],
            )
        except OSError as problem:
            raise ModelError(
                f"port {port}: it is taken. Choose another one with --port."
            ) from problem
        try:
            ready(address)
            with _ctrl_c_is_kept():
                studio = load()
            try:
                loading.set_result(studio)
                page.block_thread()
            finally:
                studio.close()
        finally:
            loading.cancel()  # who still waits for it is told
            page.close(verbose=False)


@contextmanager
def _ctrl_c_is_kept() -> Iterator[None]:
    """Ctrl-C ends what is done here, at the latest at its end: some libraries swallow it while they are imported."""
    pressed = False

    def interrupt(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
