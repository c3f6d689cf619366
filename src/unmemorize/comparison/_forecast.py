"""What a comparison will take, before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unmemorize.comparison._settings import ComparisonCaptions, ComparisonSettings
from unmemorize.detection import Detector
from unmemorize.methods import Mitigation
from unmemorize.mitigation import seconds_per_sample
from unmemorize.pipelines import Model


@dataclass(frozen=True, kw_only=True)
class ComparisonForecast:
    """The cost of a comparison, if every suspect is memorized.

    Args:
        scored: prompts that each detector scores.
        detectors, points: how many detectors, and how many methods times strengths.
        images: stage -> images that are drawn.
        seconds: of drawing these images. Detectors and fitting come on top.
    """

    scored: int
    detectors: int
    points: int
    images: Mapping[str, int]
    seconds: float


def forecast_comparison(
    model: Model,
    settings: ComparisonSettings,
    captions: ComparisonCaptions,
    suspects: int,
    detectors: Sequence[Detector],
    methods: Sequence[Mitigation],
) -> ComparisonForecast:
    """Count what a comparison takes, and time one pass of the denoiser.

    Args:
        model: the model.
        settings, captions, detectors, methods: of the comparison.
        suspects: how many prompts.
    """
    drawn = settings.seeds * suspects + settings.images
    images: dict[str, int] = {}
    if methods:
        images = {
            "ordinary images, unedited": settings.null_images + settings.images,
            "confirmation": settings.seeds * suspects,
            "unedited, for comparison": drawn,
            "methods": drawn * len(methods),
        }
    generation = settings.generation
    samples = sum(images.values()) * generation.steps * (2 if generation.guidance > 1 else 1)
    return ComparisonForecast(
        scored=suspects + len(captions.calibration) + len(captions.test),
        detectors=len(detectors),
        points=len(methods),
        images=images,
        seconds=samples * seconds_per_sample(model, generation.batch) if images else 0.0,
    )
