"""Thresholds for users without captions of their own: calibrated once per model and kept."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from diffusers import DiffusionPipeline

from unmemorize._bundled import ASSETS, ThresholdRule, is_bundled, threshold_path
from unmemorize._errors import ThresholdError
from unmemorize._files import hash_texts, to_json
from unmemorize._kept import cache_folder, kept
from unmemorize.detection._calibration import (
    Calibration,
    calibrate_threshold,
    default_detector,
)
from unmemorize.detection._detector import Detector, settings_of
from unmemorize.detection._detectors import as_detector
from unmemorize.detection._noise import NoiseSettings, evaluated_timestep
from unmemorize.detection._noise_magnitude import LateNoiseMagnitude
from unmemorize.detection._threshold import SCHEMA, SEED_SIMILARITY, Threshold
from unmemorize.engines import Execution
from unmemorize.pipelines import Model
from unmemorize.statistics import threshold_captions

_logger = logging.getLogger("unmemorize")

BUNDLED: dict[ThresholdRule, tuple[str, NoiseSettings, Calibration]] = {
    "1 %": (LateNoiseMagnitude.name, NoiseSettings(), Calibration()),
    "5 %": (LateNoiseMagnitude.name, NoiseSettings(), Calibration(max_fpr=0.05)),
    "seed similarity": (SEED_SIMILARITY, NoiseSettings(), Calibration()),
    "published": (SEED_SIMILARITY, NoiseSettings.published(), Calibration.published()),
}
"""Detector and settings of each threshold that the bundled model brings."""


def default_threshold(
    pipe: DiffusionPipeline | Model,
    *,
    detector: str | Detector | None = None,
    settings: NoiseSettings | None = None,
    calibration: Calibration | None = None,
    execution: Execution | None = None,
) -> Threshold:
    """Return a threshold calibrated on ordinary captions of this package.

    It is made once per model and settings and kept in the cache of the user. The bundled model
    brings those of `BUNDLED`. A threshold calibrated on captions like those that you
    will ask about is better, see `calibrate_threshold`: its error rate holds for these.

    Args:
        pipe: a loaded pipeline.
        detector: its name, or one with settings of its own; by default see `default_detector`.
        settings, calibration: as in `calibrate_threshold`.
        execution: who does the work where it is missing.

    Raises:
        ThresholdError: the cache cannot be written, a caption fails, or the settings are refused.
    """
    model = Model.of(pipe)
    noise, calibration = settings or NoiseSettings(), calibration or Calibration()
    detector = as_detector(detector or default_detector(model, noise, calibration))
    texts = threshold_captions(model)
    path = default_threshold_path(model, detector, noise, calibration)
    if path.is_relative_to(ASSETS):
        return Threshold.load(path)

    def load(path: Path) -> Threshold:
        threshold = Threshold.load(path)
        threshold.check(model, noise)
        threshold.detect.check(detector)
        return threshold

    def make(folder: Path) -> Threshold:
        _logger.warning(
            "No threshold is kept for %s: calibrating one on %d ordinary captions of this "
            "package. Captions of your own, like those you will ask about, are better: "
            "unmemorize threshold --prompts",
            model.name,
            len(texts),
        )
        return calibrate_threshold(
            model,
            texts,
            detector=detector,
            settings=noise,
            calibration=calibration,
            folder=folder,
            execution=execution,
        )

    return kept(
        path,
        load,
        make,
        Threshold.save,
        about=f"threshold of {model.name} over {len(texts)} ordinary captions",
        error=ThresholdError,
    )


def default_threshold_path(
    model: Model, detector: str | Detector, noise: NoiseSettings, calibration: Calibration
) -> Path:
    """Return where the file of `default_threshold` lies."""
    detector = as_detector(detector)
    if is_bundled(model.pipe) and not model.loras:
        for rule, (name, *others) in BUNDLED.items():
            usual = settings_of(as_detector(name))
            if (detector.name, settings_of(detector)) == (name, usual) and others == [
                noise,
                calibration,
            ]:
                return threshold_path(rule)
    settings = [SCHEMA, detector.name, to_json(noise), to_json(calibration), str(model.dtype)]
    timestep = float(evaluated_timestep(model, noise))
    identity = json.dumps([model.fingerprint, timestep, *settings, settings_of(detector)])
    key = hash_texts([identity, *threshold_captions(model)])
    return cache_folder() / "thresholds" / f"{key[:32]}.json"
