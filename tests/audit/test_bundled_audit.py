"""The audit on the bundled model, where it is known what each image should show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from unmemorize import AuditSettings, GenerationSettings, audit_edit, testbed


@pytest.mark.slow
def test_an_attack_brings_a_hidden_image_back_and_no_other(
    bundled: DiffusionPipeline, tmp_path: Path
) -> None:
    planted = next(
        entry for entry in testbed.planted() if entry.mode == "memory" and entry.prompt.kind == "VM"
    )
    defaults = testbed.defaults()
    settings = replace(
        AuditSettings.quick(),
        steps=(0, 25),
        images=2,
        ordinary_images=0,
        generation=GenerationSettings(steps=defaults["steps"], guidance=defaults["guidance"]),
    )
    controls = [photograph.image for photograph in testbed.unused()[:2]]
    result = audit_edit(
        bundled,
        planted.neurons,
        [planted.prompt],
        controls=controls,
        settings=settings,
        folder=tmp_path / "run",
    )
    scores = {
        (image.arm, image.attack): image.scores for image in result.images if image.index == 0
    }
    assert scores["unedited", "L0"][-1] > 0.7  # the caption copies,
    assert scores["random", "L0"][-1] > 0.7  # also with other neurons off,
    assert scores["edited", "L0"][-1] < 0.5  # and no longer with its own off,
    assert scores["edited", "L4"][-1] > 0.7  # but an embedding still does
    (free,) = (outcome for outcome in result.attacks if outcome.attack == "L4")
    assert free.last.triggered == 1
    assert result.ceiling_failed == 0
