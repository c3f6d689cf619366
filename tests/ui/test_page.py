"""The command, until its model is loaded; what the page does then is tested in a browser."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio")


def started(*arguments: object) -> subprocess.Popen[str]:
    """The page on a free port; its address is the first line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from unmemorize.cli import run; run()",
        "ui",
        "--port",
        port,
        "--device",
        "cpu",
        *arguments,
    ]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_page_opens_first_and_ends_when_its_model_cannot_be_loaded(tmp_path: Path) -> None:
    with started("--statistics", tmp_path / "none.safetensors") as process:
        try:
            said, problem = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 1
    assert said.startswith("http://127.0.0.1:")
    assert "none.safetensors" in problem
    assert "Traceback" not in problem


@pytest.mark.parametrize("seconds", [0.0, 1.5])
def test_ctrl_c_while_the_model_is_loading(seconds: float) -> None:
    with started() as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        time.sleep(seconds)  # some moments are within imports that swallow it
        process.send_signal(signal.SIGINT)
        try:
            _, problem = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in problem
