"""An audit that is killed: the same command ends as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from interruptible import RECORD, child, command

from architectures import make
from colours import noise
from unmemorize import Run


def words(folder: Path, run: Path) -> list[str]:
    return [
        *("audit", "--model", str(folder / "model"), "--device", "cpu", "--local-files-only"),
        *("--prompts", str(folder / "prompts.jsonl"), "--controls", str(folder / "controls")),
        *("--levels", "L4", "--max-steps", "5", "--steps", "2", "-o", str(run)),
    ]


def contents(run: Path) -> dict[str, Any]:
    """Records without the time that they took, and the states of attacks."""
    loaded = Run.load(run)
    records = {
        arm: [{**record, "seconds": 0} for _, record in loaded.stream(f"{arm}-L4")]
        for arm in ("edited", "never-trained", "ordinary")
    }
    states = {path.name: path.read_bytes() for path in run.rglob("edited-L4/*.safetensors")}
    return {"records": records, "states": states, "result": (run / "audit.json").read_text()}


@pytest.mark.slow  # an audit that ends early and resumes is tested in tests/audit
def test_a_killed_audit_is_resumed_exactly(tmp_path: Path) -> None:
    make("Stable Diffusion").save_pretrained(tmp_path / "model")
    (tmp_path / "controls").mkdir()
    noise(1, (32, 32)).save(tmp_path / "known.png")
    noise(2, (32, 32)).save(tmp_path / "controls" / "other.png")
    prompt = {"prompt": "red cat", "images": ["known.png"]}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(prompt))
    output = tmp_path / "output"
    with child(command, *words(tmp_path, tmp_path / "whole"), output=output) as process:
        assert process.finish() == 0, process.output()
    run = tmp_path / "killed"
    with child(command, *words(tmp_path, run), output=output) as process:
        process.reach(RECORD, 4)
        process.kill()
    assert not (run / "audit.json").exists()
    with child(command, *words(tmp_path, run), output=output) as process:
        assert process.finish() == 0, process.output()
    assert contents(run) == contents(tmp_path / "whole")
