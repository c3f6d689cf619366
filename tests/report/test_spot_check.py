"""The model that is written against what a run has drawn."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures import make
from mitigated_run import DIGEST, mitigated_run
from unmemorize import GenerationSettings, Model, Run, bake, write_report
from unmemorize.engines import silent
from unmemorize.generation import ClosedFormEdit, EditFile, Erased, generate_each
from unmemorize.mitigation import MitigationResult
from unmemorize.report import _spot_check
from unmemorize.report._spot_check import SpotCheck, read_spot_check, spot_check

EDIT = ClosedFormEdit((Erased("memorized prompt 1", weight=10.0),), ("a dog",))
SEED = 3
"""Of the image that is kept of the second prompt: not the first one of its record."""


@pytest.fixture(name="made")
def made_fixture(tmp_path: Path) -> tuple[Run, Model, MitigationResult]:
    """A run whose second prompt was drawn under the edit, and the edited model."""
    make("Stable Diffusion").save_pretrained(tmp_path / "base")
    model = Model.load(str(tmp_path / "base"), device="cpu")
    run = mitigated_run(tmp_path / "made")
    manifest = json.loads((run.folder / "manifest.json").read_text())
    manifest["settings"]["settings"]["generation"] |= {"steps": 3, "guidance": 3.0}
    (run.folder / "manifest.json").write_text(json.dumps(manifest))
    run = Run.load(run.folder)
    result = MitigationResult.load(run)
    outcomes = [replace(outcome, files_after=()) for outcome in result.outcomes]
    files = result.outcomes[1].files_after[SEED:]
    outcomes[1] = replace(outcomes[1], files_after=files)
    ((image,),) = generate_each(
        model,
        ["memorized prompt 1"],
        [EDIT],
        settings=GenerationSettings(steps=3, guidance=3.0, images=1),
        seeds=[SEED],
    )
    image.save(run.folder / files[0])
    bake(model, EditFile.of(model, EDIT), run.folder / "edited")
    return run, model, replace(result, outcomes=tuple(outcomes))


def test_the_written_model_draws_what_the_run_has_drawn(
    made: tuple[Run, Model, MitigationResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, model, result = made
    check = spot_check(run, model, result, silent)
    assert check is not None
    assert (check.passed, check.edit, len(check.files)) == (True, DIGEST, 1)
    assert check.lowest > 0.999
    assert read_spot_check(run) == check
    assert (
        "The written model draws what the run has drawn (1 image " in write_report(run).read_text()
    )
    monkeypatch.setattr(_spot_check, "generate_each", None)
    assert spot_check(run, model, result, silent) == check  # the same call resumes
    assert read_spot_check(Run.load(run.folder)) == check


def test_another_model_is_told(made: tuple[Run, Model, MitigationResult]) -> None:
    run, model, result = made
    shutil.rmtree(run.folder / "edited")
    model.pipe.unet.conv_out.weight.data.mul_(-3.0)
    model.pipe.save_pretrained(run.folder / "edited")
    check = spot_check(run, model, result, silent)
    assert check is not None
    assert not check.passed
    assert "The verdicts are not about it." in write_report(run).read_text()


def test_without_a_written_model_or_memory_nothing_is_said(
    made: tuple[Run, Model, MitigationResult],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run, model, result = made

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Model, "load", full)
        assert spot_check(run, model, result, silent) is None
    assert "no memory to load it beside the unedited model" in caplog.text
    shutil.rmtree(run.folder / "edited")
    assert spot_check(run, model, result, silent) is None
    assert spot_check(run, model, replace(result, outcomes=()), silent) is None
    assert "written model" not in write_report(run).read_text()


def test_what_was_found_for_another_edit_is_not_shown(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    check = SpotCheck(edit="f" * 10, files=("a.png",), correlations=(0.2,))
    run.write(_spot_check.SPOT_CHECK, json.dumps(vars(check)))
    assert "written model" not in write_report(run).read_text()
