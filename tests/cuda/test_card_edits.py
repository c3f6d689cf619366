"""Edits, exports, methods and guards on a card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

from cards import (  # noqa: F401 -- fixtures
    CLOSE,
    DEVICE,
    FEW,
    MEMORIZED,
    TEXTS,
    assert_alike,
    card_fixture,
    edits,
    needs_card,
    planted_fixture,
    processor_fixture,
    suspect,
    whole_float32,
)
from unmemorize import (
    AlarmError,
    EditFile,
    Localization,
    LocalizationSettings,
    Model,
    NeuronEdit,
    NeuronFile,
    bake,
    calibrate_guard,
    export_lora,
    generate,
    guard,
    localize,
    testbed,
    verify,
)
from unmemorize.generation import generate_each
from unmemorize.localization import RefinementMethod
from unmemorize.methods import MITIGATIONS, at_strength, method_of, refinement_of

pytestmark = needs_card

KINDS = ("neurons", "closed form", "pruned", "esd", "combined")
STRENGTHS = {"esd": 2.0, "siss": 1.0, "noise-sample": 60.0, "embedding": 7.0}
"""Others take their default. Training is short here, and noise is optimized for few steps."""


def test_edited_images(card: Model, processor: Model) -> None:
    """Samples of one batch have edits of their own."""
    batches: list[list[Image.Image]] = []
    for model in (card, processor):
        some = edits(model)
        changes = [None, *(some[kind] for kind in KINDS)]
        made = generate_each(
            model, [MEMORIZED] * len(changes), changes, settings=replace(FEW, images=1)
        )
        batches.append([image for (image,) in made])
    assert_alike(batches[0], batches[1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_of_the_whole_batch(card: Model, processor: Model, kind: str) -> None:
    """Where all samples have one edit, weights may be replaced."""
    found, expected = (
        generate(model, MEMORIZED, edits(model)[kind], settings=FEW) for model in (card, processor)
    )
    assert_alike(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_exports(card: Model, processor: Model, kind: str, tmp_path: Path) -> None:
    """An artefact of the card is right for the model on either device."""
    edit = edits(card)[kind]
    file = (
        NeuronFile.of(card, edit.neurons)
        if isinstance(edit, NeuronEdit)
        else EditFile.of(card, edit)
    )
    checkpoint = bake(card, file, tmp_path / "checkpoint")
    artefacts: list[Path] = [checkpoint]
    if kind not in ("pruned", "esd"):  # their rank may be too high
        export_lora(card, file, tmp_path / "lora")
        artefacts.append(tmp_path / "lora")
    for artefact in artefacts:
        for model in (card, processor):
            assert not verify(artefact, model).unexpected, (artefact.name, model.device)
    loaded = Model.load(str(checkpoint), device=DEVICE, dtype="float32", local_files_only=True)
    assert_alike(
        generate(loaded, MEMORIZED, settings=FEW), generate(card, MEMORIZED, edit, settings=FEW)
    )


@pytest.mark.parametrize("name", MITIGATIONS.names())
def test_methods(card: Model, processor: Model, name: str) -> None:
    method = method_of(name)
    if name in STRENGTHS:
        method = at_strength(method, STRENGTHS[name])
    localized: tuple[Localization, ...] = ()
    if refinement := refinement_of(method):
        settings = LocalizationSettings(refinement=cast(RefinementMethod, refinement))
        localized = (localize(processor, MEMORIZED, settings=settings),)
    found, expected = (
        generate(model, MEMORIZED, method.fit(model, suspect(localized)), settings=FEW)
        for model in (card, processor)
    )
    assert_alike(found, expected)


def test_guards(card: Model, processor: Model, planted: testbed.Planted) -> None:
    captions = testbed.captions("calibration")[:19]
    found, expected = (calibrate_guard(model, captions) for model in (card, processor))
    assert found.tau == pytest.approx(expected.tau, rel=CLOSE)
    options: dict[str, Any] = {"num_inference_steps": 8, "guidance_scale": 3.0}

    def drawn(model: Model, action: Any) -> tuple[list[float], list[Image.Image]]:
        generator = torch.Generator().manual_seed(3)
        prompts = [TEXTS[2], MEMORIZED]
        with guard(model, found, on_alarm=action) as watched:
            images = model.pipe(prompts, generator=generator, **options).images
        assert watched.images == 2
        return [value for alarm in watched.alarms for value in (alarm.score, alarm.final_score)], (
            images
        )

    for action in ("stop", "redraw", planted.neurons, lambda _: None):
        (scores, images), (same, others) = (drawn(model, action) for model in (card, processor))
        assert scores == pytest.approx(same, rel=CLOSE)
        assert len(scores) == 2
        assert_alike(images, others)
    with guard(card, found), pytest.raises(AlarmError):
        card.pipe(MEMORIZED, generator=torch.Generator().manual_seed(3), **options)
