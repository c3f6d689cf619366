"""What the README and the docs tell a reader to type works."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in (ROOT / "README.md", ROOT / "docs" / "testbed.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_examples_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "example", "exec"), names)
    assert names["pipe"] is not None
    if "NeuronFile" in block:
        assert (tmp_path / "neurons.json").exists()


def test_commands_and_options_of_the_readme_exist(cli: Callable[..., tuple[int, str, str]]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = {command: set(re.findall(r"--[a-z-]+", rest)) for command, rest in re.findall(r"^unmemorize (\w+)(.*)$", text, re.MULTILINE)}
    assert len(commands) >= 6
    for command, options in commands.items():
        code, out, _ = cli(command, "--help")
        assert code == 0
        assert all(option in out for option in options)


def test_links_of_the_docs_exist() -> None:
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
