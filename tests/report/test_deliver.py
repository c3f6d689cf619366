"""What a finished mitigation hands over, and what it says is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mitigated_run import mitigated_run
from unmemorize.export import Exported
from unmemorize.mitigation import MitigationResult
from unmemorize.report import Delivery, _deliver, deliver

REFUSED = "No LoRA is written: it has no layers."


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [("", ""), ("no step.", "The report shows no maps of regions: no step.")],
)
def test_forms_that_are_refused_and_maps_that_are_missing_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, sentence: str
) -> None:
    run = mitigated_run(tmp_path)
    exported = Exported({run.folder / "edited": "edited model"}, (REFUSED,))
    monkeypatch.setattr(_deliver, "record_model_files", lambda *_: None)
    monkeypatch.setattr(_deliver, "record_regions", lambda *_: reason)
    monkeypatch.setattr(_deliver, "export_all", lambda *_, **__: exported)
    monkeypatch.setattr(_deliver, "spot_check", lambda *_: None)
    model: Any = object()
    made = deliver(run, model, MitigationResult.load(run))
    assert made == Delivery(run.folder / "report.html", exported, sentence, None)
