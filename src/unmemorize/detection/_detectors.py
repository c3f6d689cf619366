"""The detectors that there are: those of this package and those that other packages register."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

from unmemorize._errors import ThresholdError
from unmemorize._files import from_json
from unmemorize._registry import Registry
from unmemorize.detection._detector import Detector

DETECTORS: Registry[Callable[[], Detector]] = Registry(
    "unmemorize.detectors",
    {
        "anisotropy": "unmemorize.detection._anisotropy:Anisotropy",
        "attention-entropy": "unmemorize.detection._entropy:AttentionEntropy",
        "bright-ending": "unmemorize.detection._bright_ending:BrightEnding",
        "curvature": "unmemorize.detection._region_maps:Curvature",
        "dsm": "unmemorize.detection._consecutive:ConsecutiveDifference",
        "hessian-difference": "unmemorize.detection._sharpness:HessianDifference",
        "late-noise-magnitude": "unmemorize.detection._noise_magnitude:LateNoiseMagnitude",
        "layer-entropy": "unmemorize.detection._entropy:LayerEntropy",
        "noise-magnitude": "unmemorize.detection._noise_magnitude:NoiseMagnitude",
        "score-difference": "unmemorize.detection._region_maps:ScoreDifference",
        "seed-similarity": "unmemorize.detection._seed_similarity:SeedSimilarity",
        "sharpness": "unmemorize.detection._sharpness:Sharpness",
        "white-box": "unmemorize.detection._white_box:WhiteBox",
    },
    ThresholdError,
)


def as_detector(detector: str | Detector) -> Detector:
    """Make the detector of this name with its default settings; a detector stays itself.

    Raises:
        ThresholdError: there is none of this name.
    """
    return DETECTORS.get(detector)() if isinstance(detector, str) else detector


def make_detector(name: str, settings: Mapping[str, Any]) -> Detector:
    """Make the detector of this name with the settings of a threshold, see `settings_of`.

    Raises:
        ThresholdError: there is none, or it has other settings.
    """
    factory: Any = DETECTORS.get(name)
    names = {field.name for field in fields(factory)} if is_dataclass(factory) else set[str]()
    if differing := names ^ settings.keys():
        raise ThresholdError(
            f"{name}: the threshold was made by another version of it, whose settings differ "
            f"({', '.join(sorted(differing))}). Calibrate again."
        )
    if not names:
        return cast(Detector, factory())
    problem = f"{name}: malformed settings"
    detector: Any = from_json(factory, settings, ThresholdError, problem, "Calibrate again.")
    return cast(Detector, detector)
