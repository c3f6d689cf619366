"""The workflow that the docs show decides by what the command answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from unmemorize.cli import make_app

WORKFLOW = Path(__file__).parents[1] / "docs" / "examples" / "check-checkpoint.yml"


def scripts() -> list[str]:
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["memorization"]["steps"]
    return [step["run"] for step in steps if "run" in step]


def test_the_workflow_calls_a_command_that_exists() -> None:
    (call,) = (script for script in scripts() if script.startswith("unmemorize "))
    words = call.split(" --json")[0].replace('"$MODEL"', "model").split()[1:]
    command, bound, _ = make_app(words[0]).parse_args(words, exit_on_error=False, print_error=False)
    assert command.__module__ == "unmemorize.cli.detect"
    assert bound.arguments["prompts"] == Path("captions.csv")


@pytest.mark.parametrize("memorized", [0, 1])
def test_the_workflow_refuses_a_memorized_caption(tmp_path: Path, memorized: int) -> None:
    highest = [{"prompt": "a cat", "score": 0.9, "memorized": bool(memorized)}]
    answer = {"prompts": 2, "memorized": memorized, "highest": highest}
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    code = scripts()[-1].split("<<'END'\n")[1].split("END")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == memorized
    assert done.stdout.startswith(f"{memorized} of 2 captions are memorized.")
    assert ("0.900  a cat" in done.stdout) == bool(memorized)
