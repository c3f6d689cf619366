"""The script for Stable Diffusion: its commands exist, and its table puts numbers side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import stable_diffusion
from unmemorize.cli import make_app


@pytest.mark.parametrize("statistics", [None, Path("published.pt")])
def test_every_step_is_a_command_with_these_options(statistics: Path | None) -> None:
    calls = list(stable_diffusion.steps("owner/model", Path("p"), Path("w"), statistics))
    for words in calls:
        app = make_app(words[0])
        command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        assert command.__module__.startswith("unmemorize.cli.")
        assert bound.arguments
    first = "statistics" if statistics is None else "import-upstream"
    names = [words[0] for words in calls]
    assert names == [
        *(first, "detect", "localize", "generate", "fetch", "fetch", "evaluate", "report")
    ]


def test_a_failing_step_ends_the_run_except_for_dead_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    codes = {"fetch images": 1, "report": 0}

    def record(words: list[str]) -> int:
        name = " ".join(words[: 2 if words[0] == "fetch" else 1])
        called.append(name)
        return codes.get(name, 0)

    monkeypatch.setattr(stable_diffusion, "main", record)
    (tmp_path / "run").mkdir()
    cell = {"VM": {"figure": "0.81 ± 0.02 (n=9)"}}
    rows: list[Any] = [{"label": "SSCD_Orig, before", "cells": cell}]
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({"rows": rows}))
    assert stable_diffusion.run_all("m", Path("p"), tmp_path, None) == 0
    assert called[-3:] == ["fetch images", "evaluate", "report"]
    lines = (tmp_path / "table.md").read_text().splitlines()
    ours = lines.index("| before | 0.81 ± 0.02 (n=9) |  |  |  |")
    assert lines[ours + 1] == "| *published: all active* | .83 | 1.0 | .99 | .32 |"
    assert "| *published: NeMo* | .05 | .05 | .12 | .31 |" in lines
    codes["localize"] = 1
    called.clear()
    assert stable_diffusion.run_all("m", Path("p"), tmp_path, None) == 1
    assert called[-1] == "localize"
