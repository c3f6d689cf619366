"""The detectors that there are: those of this package and those that other packages register."""

from __future__ import annotations

from collections.abc import Callable

from unmemorize._errors import ThresholdError
from unmemorize._registry import Registry
from unmemorize.detection._detector import Detector

DETECTORS: Registry[Callable[[], Detector]] = Registry(
    "unmemorize.detectors",
    {
        "noise-magnitude": "unmemorize.detection._noise_magnitude:NoiseMagnitude",
        "seed-similarity": "unmemorize.detection._seed_similarity:SeedSimilarity",
    },
    ThresholdError,
)


def make_detector(name: str) -> Detector:
    """Make the detector of this name, with its default settings.

    Raises:
        ThresholdError: there is none.
    """
    return DETECTORS.get(name)()
