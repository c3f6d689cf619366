"""How the level of a guard is calibrated, kept and read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from architectures import make
from conftest import PROMPTS, make_pipeline
from unmemorize import (
    Alarm,
    GuardThreshold,
    Model,
    ModelError,
    PromptError,
    RunError,
    ThresholdError,
    calibrate_guard,
    default_guard_threshold,
    guard,
)
from unmemorize.guarding import (
    _calibration,
    _kept,
    default_guard_path,
    noise_scores,
    probed_timestep,
)
from unmemorize.guarding._calibration import NoiseScore

STEPS = 2
TIMESTEP = 281.0
"""The timestep of step 35 of 50."""
SEED = 1048576


@pytest.fixture
def model() -> Model:
    return Model(make_pipeline())


def score_of(model: Model, text: str, seed: int) -> float:
    """The score of one call of the pipeline, as a guard reports it."""
    alarms: list[Alarm] = []
    threshold = GuardThreshold(
        tau=-1.0,
        max_fpr=0.5,
        timestep=TIMESTEP,
        shape=(4, 16, 16),
        fingerprint=model.fingerprint,
        prompts="",
    )
    with guard(model, threshold, on_alarm=alarms.append):
        generator = torch.Generator().manual_seed(seed)
        model.pipe(text, num_inference_steps=STEPS, guidance_scale=3.0, generator=generator)
    return alarms[0].score


def test_each_caption_gives_one_image_of_its_own_seed(model: Model, tmp_path: Path) -> None:
    texts = [*PROMPTS, "another", "a", "b", "c"]  # more than fit in a batch
    progress: list[tuple[int, int | None]] = []
    threshold = calibrate_guard(
        model,
        texts,
        max_fpr=0.25,
        folder=tmp_path / "run",
        progress=lambda *at: progress.append(at),
    )
    expected = [score_of(model, text, SEED + place) for place, text in enumerate(texts)]
    assert threshold.scores == pytest.approx(expected, rel=1e-4)
    assert threshold.tau == sorted(threshold.scores)[8]  # of 10: ceil(11 * .75) = 9th
    assert (threshold.max_fpr, threshold.timestep, threshold.shape) == (0.25, TIMESTEP, (4, 16, 16))
    assert threshold.fingerprint == model.fingerprint
    assert progress == [(0, 10), (8, 10), (10, 10)]
    again = calibrate_guard(model, texts, max_fpr=0.25, folder=tmp_path / "run")
    assert again == threshold
    with pytest.raises(RunError, match="to start again"):
        calibrate_guard(model, texts[1:], folder=tmp_path / "run")


def test_false_alarms_of_new_images_stay_below_the_rate(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)

    def simulated(_model: Model, texts: Sequence[str], *_: object) -> list[NoiseScore]:
        scores = random.uniform(size=len(texts))
        return [NoiseScore(score=float(score), shape=(4, 16, 16)) for score in scores]

    monkeypatch.setattr(_calibration, "noise_scores", simulated)
    texts = [f"caption {number}" for number in range(199)]
    rates = []
    for _ in range(30):
        threshold = calibrate_guard(model, texts)
        assert threshold.max_fpr == 0.01
        rates.append(1 - threshold.tau)  # of uniform scores
    assert 0.006 < np.mean(rates) < 0.0135  # .01 with a standard error of .0013
    assert calibrate_guard(model, texts[:49]).max_fpr == 0.02


def test_what_cannot_be_calibrated_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ThresholdError, match="at least 2"):
        calibrate_guard(model, PROMPTS[:1])
    with pytest.raises(ThresholdError, match="it takes at least 99"):
        calibrate_guard(model, PROMPTS, max_fpr=0.01)
    with pytest.raises(PromptError):
        calibrate_guard(model, "a cat")
    with pytest.raises(ModelError, match="has no classifier-free guidance or its guidance was"):
        calibrate_guard(make("Flux"), PROMPTS)
    model.pipe.unet.conv_out.register_forward_hook(lambda *call: call[2] * float("nan"))
    with pytest.raises(ThresholdError, match=r"'prompt one' fails .*leave it out"):
        calibrate_guard(model, PROMPTS)


def test_a_threshold_survives_its_file(model: Model, tmp_path: Path) -> None:
    threshold = calibrate_guard(model, PROMPTS)
    threshold.save(tmp_path / "guard.json")
    assert GuardThreshold.load(tmp_path / "guard.json") == threshold
    content = json.loads((tmp_path / "guard.json").read_text())
    assert content["schema"] == "unmemorize.guard/2"
    (tmp_path / "guard.json").write_text(
        json.dumps({**content, "schema": "unmemorize.threshold/3"})
    )
    with pytest.raises(ThresholdError, match=r"not a threshold file of a guard.*unmemorize guard"):
        GuardThreshold.load(tmp_path / "guard.json")
    (tmp_path / "guard.json").write_text(json.dumps({**content, "tau": "high"}))
    with pytest.raises(ThresholdError, match="malformed"):
        GuardThreshold.load(tmp_path / "guard.json")
    with pytest.raises(ThresholdError, match="missing"):
        GuardThreshold.load(tmp_path / "missing.json")


def test_the_default_threshold_is_made_once_for_all_samplers(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_kept, "threshold_captions", lambda _: tuple(PROMPTS))
    made = default_guard_threshold(model)
    assert "No guard is kept" in caplog.text
    assert made == calibrate_guard(model, PROMPTS)
    assert default_guard_path(model).parent.name == "guards"

    def refuse(*_: object) -> None:
        raise AssertionError("it is kept")

    monkeypatch.setattr(_kept, "calibrate_guard", refuse)
    assert default_guard_threshold(model) == made
    with guard(model) as watched:
        pass
    assert watched.threshold == made
    path = default_guard_path(model)
    model.pipe.scheduler = EulerDiscreteScheduler.from_config(model.pipe.scheduler.config)
    assert default_guard_path(model) == path


def test_a_calibration_leaves_no_offloaded_model_on_the_device(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends each call in its first step, and only the end of a call takes the denoiser off."""
    timestep, events = probed_timestep(model), list[str]()
    noise_scores(model, ["a cat"], [3], timestep)  # what a model is asked about once
    monkeypatch.setattr(model.pipe, "maybe_free_model_hooks", lambda: events.append("freed"))
    model.denoiser.register_forward_pre_hook(lambda *_: events.append("denoiser"))
    noise_scores(model, ["a cat"], [3], timestep)
    assert events == ["denoiser", "denoiser", "freed"]
