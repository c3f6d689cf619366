"""What a comparison will take, before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unmemorize._prompts import Prompt
from unmemorize.comparison._settings import ComparisonCaptions, ComparisonSettings
from unmemorize.detection import Detector
from unmemorize.methods import Mitigation
from unmemorize.metrics import ClipAlignment, have_references
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
    suspects: Sequence[Prompt],
    detectors: Sequence[Detector],
    methods: Sequence[Mitigation],
    clip: ClipAlignment | None = None,
) -> ComparisonForecast:
    """Count what a comparison takes, and time one pass of the denoiser.

    Args:
        model: the model.
        settings, captions, detectors, methods: of the comparison.
        suspects: the prompts. Where one has no training image, copies are told by how much images
            agree, and the level of that takes more ordinary images.
        clip: as in `ComparisonInputs`. Distances between distributions take more ordinary images.
    """
    other = 0
    if not have_references(suspects):
        other = settings.null_images
    elif clip is not None:
        other = settings.images
    drawn = settings.seeds * len(suspects) + settings.images
    images: dict[str, int] = {}
    if methods:
        images = {
            "ordinary images, unedited": settings.null_images + other,
            "confirmation": settings.seeds * len(suspects),
            "unedited, for comparison": drawn,
            "methods": drawn * len(methods),
        }
    generation = settings.generation
    samples = sum(images.values()) * generation.steps * (2 if generation.guidance > 1 else 1)
    return ComparisonForecast(
        scored=len(suspects) + len(captions.calibration) + len(captions.test),
        detectors=len(detectors),
        points=len(methods),
        images=images,
        seconds=samples * seconds_per_sample(model, generation.batch) if images else 0.0,
    )
