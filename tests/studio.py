"""A studio on a tiny pipeline that has memorized PLANTED_PROMPT, for tests of the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from colours import Pixels
from conftest import PLANTED_PROMPT, PROMPTS, one_number, planted_pipeline
from records import SMALL_MITIGATION
from unmemorize import (
    GenerationSettings,
    LocalizationSettings,
    Model,
    NoiseSettings,
    Prompt,
    calibrate_threshold,
    compute_statistics,
)
from unmemorize.generation import generate
from unmemorize.mitigation import OrdinaryCaptions, derived_seed
from unmemorize.ui._studio import Studio

FEW_STEPS = GenerationSettings(steps=2, seed=5, guidance=3.0, batch=4)
OTHER_PROMPT = "c word"
"""A prompt that is not memorized."""
SIZE = (16, 16)
"""Of the pipeline's images."""


def planted_studio(folder: Path, **options: Any) -> Studio:
    """Make a studio whose first example names its own images as its training images.

    These are the first image that the page draws for it, and two that mending draws.
    """
    model = Model(planted_pipeline())
    statistics = compute_statistics(model, PROMPTS)
    calibrated = calibrate_threshold(
        model, PROMPTS, detector="seed-similarity", settings=NoiseSettings(seeds=4)
    )
    threshold = one_number(calibrated, max(calibrated.detect.scores) + 0.02)
    training = [folder / "training.png", folder / "second.png", folder / "third.png"]
    generate(model, PLANTED_PROMPT, settings=replace(FEW_STEPS, images=1))[0].save(training[0])
    for number, path in enumerate(training[1:]):
        seed = derived_seed("search", model.fingerprint, PLANTED_PROMPT, number)
        settings = replace(FEW_STEPS, images=1, seed=seed)
        generate(model, PLANTED_PROMPT, settings=settings)[0].save(path)
    mending = replace(SMALL_MITIGATION, search_images=3, compare=False)
    examples = [Prompt(PLANTED_PROMPT, images=tuple(training)), Prompt(OTHER_PROMPT)]
    given: dict[str, Any] = {
        "model": model,
        "statistics": statistics,
        "threshold": threshold,
        "localization": LocalizationSettings(noise=threshold.settings, criterion="unblocked"),
        "generation": FEW_STEPS,
        "captions": OrdinaryCaptions(("a dog", "a house", "a tree"), ("a car", "a boat")),
        "descriptor": Pixels(),
        "prompts": examples,
        "suspects": examples,
        "arguments": "MODEL",
        "quick": mending,
        "full": replace(mending, alpha=0.4),
    }
    return Studio(**(given | options))


def flat_picture(folder: Path) -> Path:
    """A picture that the model does not draw."""
    path = folder / "flat picture.png"
    Image.linear_gradient("L").resize(SIZE).convert("RGB").save(path)
    return path
