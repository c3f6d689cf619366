"""Serve the page to this machine alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio asks for news while it is imported

from unmemorize._errors import ModelError

try:
    import gradio as gr
except ModuleNotFoundError:
    raise
except (ImportError, ValueError) as problem:  # Gradio makes an HTTP client when it is imported
    raise ModelError(
        f"the page cannot be opened with these proxy settings: {problem}. "
        "Correct or unset http_proxy, https_proxy and all_proxy."
    ) from problem

from unmemorize.ui._page import CSS, THEME, build

if TYPE_CHECKING:
    from unmemorize.ui._studio import Studio

HOST = "127.0.0.1"
_MOST_WAITING = 32
"""Requests that may wait for the model. Later ones are refused at once."""


def serve(load: Callable[[], Studio], port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C. It opens at once, and its visitors wait for the model.

    Args:
        load: loads the model.
        port: a free port of this machine.
        ready: called with the address when it can be opened.

    Raises:
        ModelError: the port is taken, or the page cannot be reached from this machine.
        UnmemorizeError: ``load`` raised it.
    """
    with TemporaryDirectory(prefix="unmemorize-page-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # for the images that visitors see
        loading: Future[Studio] = Future()
        page = build(loading)
        page.queue(max_size=_MOST_WAITING, default_concurrency_limit=1)
        try:
            ready(_launch(page, port))
            with keep_ctrl_c():
                studio = load()
            try:
                loading.set_result(studio)
                page.block_thread()
            finally:
                studio.close()
        finally:
            loading.cancel()  # tells the visitors who still wait
            page.close(verbose=False)


def _launch(page: gr.Blocks, port: int) -> str:
    bypass_proxy(HOST)
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
        raise ModelError(f"port {port}: it is taken. Choose another one with --port.") from problem
    except Exception as problem:  # Gradio opens its own address, with errors of several libraries
        raise ModelError(
            f"http://{HOST}:{port}: the page cannot be reached from this machine ({problem}). "
            "Check the proxy settings (http_proxy, all_proxy, no_proxy)."
        ) from problem
    return str(address)


def bypass_proxy(host: str) -> None:
    """Reach a host of this machine directly. Other hosts still go through the user's proxy."""
    for name in ("no_proxy", "NO_PROXY"):  # programs read either
        hosts = [entry for entry in os.environ.get(name, "").split(",") if entry]
        if host not in hosts:
            os.environ[name] = ",".join([*hosts, host])


@contextmanager
def keep_ctrl_c() -> Iterator[None]:
    """Make Ctrl-C end what runs inside, at the latest at its end.

    Some libraries swallow the KeyboardInterrupt while they are imported.
    """
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
