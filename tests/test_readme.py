"""What the README and the docs tell a reader to type works."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_examples_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "example", "exec"), names)
    if "NeuronFile" in block:
        assert (tmp_path / "neurons.json").exists()


def commands() -> list[str]:
    """Find every call of the command line in the README and the docs."""
    found = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        found += re.findall(r"^unmemorize (\S.*)$", text, re.MULTILINE) + re.findall(
            r"`unmemorize ([^`]+)`", text
        )
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("call", commands())
def test_commands_and_options_exist(cli: Callable[..., tuple[int, str, str]], call: str) -> None:
    words = call.split()
    command = (
        words[:2] if words[0] in ("export", "fetch", "neurons", "runs", "testbed") else words[:1]
    )
    if command == ["COMMAND"]:
        command = ["demo"]
    code, out, _ = cli(*command, "--help")
    assert code == 0
    options = [
        word.split("=")[0].rstrip(",.") for word in words if word.startswith("-") and word != "-"
    ]
    assert all(
        re.search(rf"(?<!\S){re.escape(option)}(?!\S)", out) for option in options if option != "-h"
    )


def test_the_page_of_commands_comes_from_their_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, page = ROOT / "docs" / "tools" / "commands.py", tmp_path / "commands.md"
    monkeypatch.setattr(sys, "argv", [str(script), str(page)])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out == f"{page}\n"
    assert page.read_bytes() == (ROOT / "docs" / "commands.md").read_bytes()


def test_the_site_can_be_built(tmp_path: Path) -> None:
    """Strictly: a broken link or a page that is missing in the navigation is an error."""
    build = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(
        build,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").exists()


def test_links_of_the_docs_exist() -> None:
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").glob("*.md"),
    ):
        for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
