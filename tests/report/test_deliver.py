"""What a finished mitigation hands over, and what it says is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mitigated_run import mitigated_run
from unmemorize import Model, RunError
from unmemorize.export import Exported
from unmemorize.report import Delivery, _deliver, deliver

REFUSED = "No LoRA is written: it has no layers."


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [("", ""), ("no step.", "The report shows no maps of regions: no step.")],
)
def test_forms_that_are_refused_and_maps_that_are_missing_are_told_apart(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pipe: Any,
    reason: str,
    sentence: str,
) -> None:
    run = mitigated_run(tmp_path)
    exported = Exported({run.folder / "edited": "edited model"}, (REFUSED,))
    monkeypatch.setattr(_deliver, "record_regions", lambda *_: reason)
    monkeypatch.setattr(_deliver, "export_all", lambda *_, **__: exported)
    monkeypatch.setattr(_deliver, "spot_check", lambda *_: None)
    monkeypatch.setattr(Model, "fingerprint", run.manifest.inputs.fingerprint)
    made = deliver(run.folder, pipe)
    assert made == Delivery(run.folder / "report.html", exported, sentence, None)


def test_another_model_than_that_of_the_run_is_refused(tmp_path: Path, pipe: Any) -> None:
    run = mitigated_run(tmp_path)
    with pytest.raises(RunError, match=r"made with fingerprint = .* or give the model that"):
        deliver(run, pipe)
    assert not (run.folder / "report.html").exists()
