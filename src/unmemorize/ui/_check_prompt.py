"""Check a prompt: is it memorized, and what does the model draw for it, with or without a guard?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from PIL import Image

from unmemorize._errors import AlarmError
from unmemorize._prompts import Prompt
from unmemorize.detection import SEED_SIMILARITY, Detection, detect_prompts
from unmemorize.engines import Progress, silent
from unmemorize.generation import generate_each
from unmemorize.guarding import GuardThreshold, default_guard_threshold, guard
from unmemorize.metrics import copy_scores, read_references
from unmemorize.ui._studio import Studio


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Images of a prompt.

    Args:
        images: those that were drawn; None for each that the guard stopped.
        copies: the similarity of each drawn image to the training images, in [-1, 1]; empty where
            these are not known.
        training: the training images.
        tau: the level of the guard; None without one.
        scores: of the images that the guard stopped.
    """

    images: tuple[Image.Image | None, ...]
    copies: tuple[float, ...] = ()
    training: tuple[Image.Image, ...] = ()
    tau: float | None = None
    scores: tuple[float, ...] = ()

    @property
    def guard_in_words(self) -> str:
        """What the guard did; empty without one."""
        if self.tau is None:
            return ""
        count = len(self.images)
        if not self.scores:
            return f"The guard let all {count} images pass: none of them looks like a copy."
        return (
            f"The guard stopped {len(self.scores)} of {count} images in their first step, because "
            f"they look like copies (scores up to {max(self.scores):.2f}, above "
            f"{self.tau:.2f})."
        )


def detect(studio: Studio, prompt: Prompt) -> Detection:
    """Tell whether a prompt is memorized."""
    (detection,) = detect_prompts(
        studio.model, [prompt], studio.threshold, studio.threshold.settings, stop="never"
    )
    return detection


def verdict(detection: Detection) -> str:
    """Say what a detection means."""
    if detection.detector != SEED_SIMILARITY:
        side = "is above" if detection.memorized else "is not above"
        return (
            f"Its score of {detection.detector}, {detection.score:.4g}, {side} tau, "
            f"{detection.tau:.4g}, which few ordinary prompts exceed."
        )
    if not detection.memorized:
        return (
            "Different initial noise leads to different images: no two seeds are as similar as "
            "tau. The test may still miss images that are memorized in another way."
        )
    return (
        f"{len(detection.memorized_seeds)} of {detection.seeds} seeds lead to nearly the same "
        "image, whatever their initial noise is."
    )


def guard_level(studio: Studio, progress: Progress = silent) -> GuardThreshold:
    """Return the level of the guard that is kept for the model, which is made first if need be."""
    return default_guard_threshold(studio.model, steps=studio.generation.steps, progress=progress)


def draw(
    studio: Studio,
    prompt: Prompt,
    images: int,
    level: GuardThreshold | None = None,
    progress: Progress = silent,
) -> Drawing:
    """Make images of a prompt.

    Args:
        studio: the model.
        prompt: the prompt.
        images: how many.
        level: of a guard that stops copies; None for no guard.
        progress: called with image steps.
    """
    settings = studio.drawing(images)
    drawn: list[Image.Image] = []
    watching = guard(studio.model, level) if level else nullcontext()
    with watching as watched, suppress(AlarmError):  # the alarms tell of it
        (drawn,) = generate_each(
            studio.model, [prompt.text], [None], settings=settings, progress=progress
        )
    alarms = watched.alarms if watched else []
    stopped = {alarm.image for alarm in alarms}
    shown = tuple(None if row in stopped else image for row, image in enumerate(drawn))
    training = read_references(prompt.images).images
    return Drawing(
        images=shown or (None,) * images,
        copies=scores(studio, [image for image in shown if image is not None], training),
        training=training,
        tau=level.tau if level else None,
        scores=tuple(alarm.score for alarm in alarms),
    )


def scores(
    studio: Studio, images: Sequence[Image.Image], training: Sequence[Image.Image]
) -> tuple[float, ...]:
    """Compare images with training images; nothing where there are none."""
    if not images or not training:
        return ()
    embedded = studio.descriptor(images)
    return tuple(copy_scores(embedded, studio.descriptor(training)).tolist())
