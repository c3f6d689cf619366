"""The benchmark of growth writes the runs whose reports it measures."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import growth
from unmemorize import Model


def test_the_report_of_so_many_memorized_prompts(tmp_path: Path) -> None:
    growth.mitigated(tmp_path, 4)
    growth.STEPS["report"](cast(Model, None), tmp_path, 4)
    page = (tmp_path / "mitigated" / "run" / "report.html").read_text(encoding="utf-8")
    assert "memorized prompt 3" in page
    assert "memorized prompt 4" not in page
