"""Settings of detectors travel with thresholds."""

from dataclasses import replace

import numpy as np
import pytest
from diffusers import DiffusionPipeline

from conftest import PLANTED_PROMPT, PROMPTS, planted_pipeline
from unmemorize import (
    Calibration,
    Model,
    NoiseSettings,
    Threshold,
    ThresholdError,
    calibrate_threshold,
    detect,
)
from unmemorize.detection import (
    Anisotropy,
    DetectionRun,
    LateNoiseMagnitude,
    NoiseMagnitude,
    Trace,
    default_threshold_path,
)

SETTINGS = NoiseSettings(seeds=2, seed=5)
DETECTOR = NoiseMagnitude(seeds=2, first=2, steps=4, guidance=3.0)


@pytest.fixture(scope="module")
def threshold(tmp_path_factory: pytest.TempPathFactory) -> Threshold:
    """A calibrated threshold that went through its file."""
    path = tmp_path_factory.mktemp("calibrated") / "threshold.json"
    made = calibrate_threshold(planted_pipeline(), PROMPTS, detector=DETECTOR, settings=SETTINGS)
    made.save(path)
    loaded = Threshold.load(path)
    assert loaded == made
    return loaded


def test_settings_travel(planted: DiffusionPipeline, threshold: Threshold) -> None:
    expected = DETECTOR.score(Trace(Model(planted), [PLANTED_PROMPT], SETTINGS))[0].value
    assert threshold.detect.made() == DETECTOR
    for detector in (None, DETECTOR):
        record = detect(planted, PLANTED_PROMPT, threshold=threshold, detector=detector)
        assert record.score == pytest.approx(expected, rel=1e-4)
        assert (record.evaluations, record.shared_evaluations) == (6, 2)
    assert DetectionRun.of(threshold).settings["first"] == 2


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (replace(DETECTOR, first=1), "calibrated with first=2 of noise-magnitude, but first=1"),
        ("noise-magnitude", "calibrated with seeds=2"),
        ("dsm", "calibrated for the detector noise-magnitude, not for dsm"),
    ],
)
def test_other_detectors_are_refused(
    planted: DiffusionPipeline, threshold: Threshold, detector: str, message: str
) -> None:
    with pytest.raises(ThresholdError, match=message):
        detect(planted, PLANTED_PROMPT, threshold=threshold, detector=detector)


@pytest.mark.parametrize("change", [{"settings": {}}, {"settings": {"first": "two"}}])
def test_files_with_other_settings_are_refused(
    planted: DiffusionPipeline, threshold: Threshold, change: dict[str, dict[str, str]]
) -> None:
    settings = {**threshold.detect.settings, **change["settings"]} if change["settings"] else {}
    old = replace(threshold, detect=replace(threshold.detect, settings=settings))
    with pytest.raises(ThresholdError, match=r"Calibrate again"):
        detect(planted, PLANTED_PROMPT, threshold=old)


def test_parts_are_weighed_by_captions_that_set_no_level(pipe: DiffusionPipeline) -> None:
    texts = [f"{letter} word" for letter in "abcdefghijkl"]
    raw = Anisotropy(seeds=1)
    made = calibrate_threshold(pipe, texts, detector=raw, settings=SETTINGS)
    trace = Trace(Model(pipe), texts, SETTINGS)
    parts = np.array([score.parts for score in raw.score(trace)])
    first, others = parts[:2], parts[2:]
    expected = ((others - first.mean(0)) / first.std(0, ddof=1)).sum(1)
    assert made.detect.scores == pytest.approx(expected, rel=0.05)
    assert made.detect.tau == max(made.detect.scores)
    assert made.detect.settings["means"] == pytest.approx(first.mean(0), rel=1e-3)
    made.detect.check(raw)  # what a calibration finds is no other setting
    with pytest.raises(ThresholdError, match="seeds=1 of anisotropy, but seeds=4"):
        made.detect.check(Anisotropy())
    record = detect(pipe, texts[5], threshold=made)
    assert record.score == pytest.approx(made.detect.scores[3], rel=0.05)
    for count in (2, 3):
        with pytest.raises(ThresholdError, match=f"{count} prompts: anisotropy takes 2"):
            calibrate_threshold(pipe, texts[:count], detector=raw, settings=SETTINGS)


def test_thresholds_are_kept_by_settings(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    detectors = ("late-noise-magnitude", LateNoiseMagnitude(step=5), "noise-magnitude")
    paths = [
        default_threshold_path(model, detector, SETTINGS, Calibration()) for detector in detectors
    ]
    assert len(set(paths)) == 3
    same = default_threshold_path(model, LateNoiseMagnitude(), SETTINGS, Calibration())
    assert same == paths[0]
