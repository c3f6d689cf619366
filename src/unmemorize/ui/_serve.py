"""Serve the page to this machine alone."""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported, which asks for news then

from unmemorize._errors import ModelError
from unmemorize.ui._page import CSS, THEME, build
from unmemorize.ui._studio import Studio

HOST = "127.0.0.1"


def serve(studio: Studio, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Args:
        studio: the model.
        port: of this machine.
        ready: called with the address when it can be opened.

    Raises:
        ModelError: the port is taken.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(studio.folder / "page")  # images that are shown go there, and with the studio
    page = build(studio)
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
        raise ModelError(f"port {port}: it is taken. Choose another one with --port.") from problem
    try:
        ready(address)
        page.block_thread()
    finally:
        page.close(verbose=False)
