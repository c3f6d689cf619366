"""Images whose captions are not known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_audit import CAPTIONS, SETTINGS, Pixels

from architectures import make
from colours import noise
from unmemorize import AuditError, AuditSettings, Model, audit_images
from unmemorize.audit import image_audit_totals
from unmemorize.audit._image_first import ImageAuditResult, ease, judged_images
from unmemorize.audit._measures import ImageScores
from unmemorize.audit._records import read_attacks
from unmemorize.runs import Run, StoredImage, status_of


def image(*scores: float) -> ImageScores:
    budgets = (0, 5, 10)
    work = (0, 120, 240)
    return ImageScores(0, "", "image", budgets, scores, scores, work, "image.png")


def named(*names: str) -> list[StoredImage]:
    return [StoredImage(path=name, absolute=f"/{name}", sha256="") for name in names]


def test_an_image_that_is_copied_earlier_comes_back_more_easily() -> None:
    rising = [
        image(0.0, 0.1, 0.2),
        image(0.1, 0.2, 0.4),
        image(0.1, 0.2, 0.51),
        image(0.1, 0.2, 0.99),
        image(0.1, 0.51, 0.6),
        image(0.6, 0.7, 0.9),
    ]
    assert [ease(each) for each in rising] == sorted({ease(each) for each in rising})


def test_each_image_has_a_p_value_against_the_controls() -> None:
    controls = [image(0.0, 0.1, 0.2 + number / 1000) for number in range(24)]
    known, unknown = image(0.1, 0.8, 0.9), image(0.0, 0.1, 0.21)
    result = judged_images(named("known", "unknown"), [known, unknown], controls, "", 0.1)
    first, second = result.findings
    assert (first.p, first.adjusted, first.found) == (0.04, 0.08, True)
    assert (first.copied_at, first.work, first.score) == (5, 120, 0.9)
    assert second.p == (1 + 14) / 25  # controls with a score of at least .21
    assert (second.copied_at, second.found) == (None, False)
    assert (result.smallest_p, result.needed, result.found) == (0.04, 1, 1)


def test_never_trained_images_are_found_as_often_as_p_says() -> None:
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(300):
        draws = [image(*np.sort(rng.beta(2, 4, 3))) for _ in range(20)]
        result = judged_images(named("one"), draws[:1], draws[1:], "", 0.05)
        p_values.append(result.findings[0].p)
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=0.07)


def test_both_neutral_starts_are_tried_unless_some_are_named() -> None:
    for settings, starts in (
        (AuditSettings(), ("noise", "other")),
        (AuditSettings.quick(), ("noise", "other")),
        (AuditSettings(starts=("prompt", "other")), ("other",)),
    ):
        assert settings.image_first().starts == starts


def test_images_are_attacked_from_neutral_starts(tmp_path: Path) -> None:
    model = Model(make("Stable Diffusion"))
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(files):
        noise(number, (32, 32)).save(path)
    settings = replace(SETTINGS, steps=(0, 1), images=1)
    result = audit_images(
        model,
        files[:1],
        files[1:],
        settings=settings,
        captions=CAPTIONS,
        descriptor=Pixels(),
        folder=tmp_path / "run",
    )
    run = Run.load(tmp_path / "run")
    totals = image_audit_totals(run)
    assert ImageAuditResult.load(run) == result
    assert {record.start for record in read_attacks(run, "edited-L4")} == {"noise", "other"}
    assert {record.prompt for record in read_attacks(run, "never-trained-L4")} == {""}
    assert result.controls == 2
    assert "said to be never trained on" in result.never_trained
    assert result.findings[0].file == "0.png"
    assert result.findings[0].image == StoredImage.of(files[0], run.folder)
    states = {state.name: (state.done, state.pending) for state in status_of(run, totals)}
    finished = dict(states)
    (run.folder / "edited-L4.jsonl").write_text("")
    states = {state.name: (state.done, state.pending) for state in status_of(run, totals)}
    counts = {kind: done for kind, (done, _) in finished.items()}
    assert finished == {kind: (count, 0) for kind, count in totals.items()}
    assert states == {**finished, "edited-L4": (0, counts["edited-L4"])}
    assert counts["never-trained-L4"] == 2 * counts["edited-L4"] > 0
    with pytest.raises(AuditError, match="among the controls"):
        audit_images(model, files[:1], files, captions=CAPTIONS, descriptor=Pixels())
    with pytest.raises(AuditError, match="Name it once"):
        audit_images(model, files[:1] * 2, files[1:], captions=CAPTIONS, descriptor=Pixels())
    with pytest.raises(AuditError, match="no control"):
        audit_images(model, files, [], captions=CAPTIONS, descriptor=Pixels())
    with pytest.raises(AuditError, match="1 different ordinary caption:"):
        audit_images(model, files[:1], files[1:], captions=["a dog"], descriptor=Pixels())
