"""The server before its model is loaded. What the page does then is tested in a browser."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from unmemorize import ModelError

pytest.importorskip("gradio")

from unmemorize.ui import _serve as serve_module
from unmemorize.ui._serve import bypass_proxy, keep_ctrl_c, serve

DEAD_PROXY = "http://127.0.0.1:9"
"""Nothing listens there."""


@pytest.fixture
def port() -> int:
    """A port of this machine that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def started(port: int, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    """The command, behind a proxy that does not answer. Its first line is the address."""
    command = [
        *(sys.executable, "-c", "from unmemorize.cli import run; run()", "ui"),
        *("--port", port, "--device", "cpu", *arguments),
    ]
    environment = {**os.environ, "http_proxy": DEAD_PROXY, "HTTP_PROXY": DEAD_PROXY, **variables}
    for name in ("no_proxy", "NO_PROXY"):
        environment.pop(name, None)
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_the_page_opens_first_and_ends_when_its_model_cannot_be_loaded(
    port: int, tmp_path: Path
) -> None:
    with started(port, "--statistics", tmp_path / "none.safetensors") as process:
        try:
            output, problem = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 1
    assert output.startswith(f"http://127.0.0.1:{port}")
    assert "none.safetensors" in problem
    assert "Traceback" not in problem


def test_ctrl_c_while_the_model_is_loading(port: int) -> None:
    with started(port) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        try:
            _, problem = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in problem


def test_ctrl_c_that_a_library_swallows_ends_the_work_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    finished = []

    def work() -> None:
        with keep_ctrl_c():
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            finished.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert finished
    assert signal.getsignal(signal.SIGINT) is before
    with keep_ctrl_c():
        pass


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with started(port) as process:
            _, problem = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"port {port}: it is taken" in problem
    assert "Traceback" not in problem


def test_proxies_that_cannot_be_used_are_named(port: int) -> None:
    with started(port, all_proxy="nonsense://127.0.0.1") as process:
        _, problem = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the page cannot be opened with these proxy settings" in " ".join(problem.split())
    assert "nonsense" in problem
    assert "Traceback" not in problem


class Unreachable:
    """A page whose server cannot open its own address."""

    def queue(self, **options: Any) -> None:
        pass

    def launch(self, **options: Any) -> None:
        raise RuntimeError("code 502")

    def close(self, **options: Any) -> None:
        pass


def test_a_page_that_cannot_be_reached_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "build", lambda loading: Unreachable())
    for name in ("GRADIO_TEMP_DIR", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:7860: .*reached.*code 502.*proxy"):
        serve(pytest.fail, 7860, lambda _: None)


def test_other_hosts_keep_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setenv("NO_PROXY", "example.net,127.0.0.1")
    for _ in range(2):
        bypass_proxy("127.0.0.1")
        assert os.environ["no_proxy"] == "example.org,127.0.0.1"
        assert os.environ["NO_PROXY"] == "example.net,127.0.0.1"
