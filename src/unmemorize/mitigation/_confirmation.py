"""Which suspects are memorized: those whose unedited images show copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from PIL import Image

from unmemorize._prompts import Prompt
from unmemorize.detection import (
    SEED_SIMILARITY,
    Detection,
    DetectTask,
    Threshold,
    read_detections,
)
from unmemorize.metrics import read_image, read_references
from unmemorize.mitigation._certificate import Copies
from unmemorize.mitigation._copy_test import CopyTest, Measure, Null, copy_tests
from unmemorize.mitigation._images import ImagesRecord
from unmemorize.mitigation._ordinary import OrdinaryImages
from unmemorize.mitigation._seeds import derived_seed
from unmemorize.mitigation._stages import Stages, asked

BEFORE = "before"
"""The records and the folder of the unedited images of suspects."""
FEWEST_COPIES = 2
"""Copies among the unedited images that confirm a prompt."""


@dataclass(frozen=True)
class Confirmation:
    """What the unedited images of a suspect show.

    Args:
        test: tells its copies: the first test that shows enough of them, else the first one.
        scores: of the unedited images by that test.
        copies: how many of them are copies. For agreement the image that the others are compared
            with does not count.
    """

    test: CopyTest
    scores: tuple[float, ...]
    copies: Copies

    @property
    def confirmed(self) -> bool:
        """Whether there are enough copies."""
        return self.copies.copies >= FEWEST_COPIES

    @property
    def measure(self) -> Measure:
        """What was compared."""
        return self.test.measure


def screen(
    stages: Stages, prompts: Mapping[int, Prompt], threshold: Threshold
) -> dict[int, Detection]:
    """Detect all suspects.

    Returns:
        The detections by index of the prompt.
    """
    task = DetectTask(threshold, False, stages.settings.generation.batch)
    stages.work("screen", task, sorted(prompts.items()))
    return {index: detection for index, _, detection in read_detections(stages.run)}


def screen_level(threshold: Threshold) -> float:
    """Return the score above which a suspect is generated.

    For seed similarity it is the level of localization, which is lower than that of detection: the
    images clear a suspect that is called by mistake.
    """
    if threshold.detect.detector == SEED_SIMILARITY:
        return min(threshold.localize.tau, threshold.detect.tau)
    return threshold.detect.tau


def search_seeds(stages: Stages, text: str) -> tuple[int, ...]:
    """Return the seeds that confirm a prompt and on which edits are searched."""
    fingerprint = stages.model.fingerprint
    return tuple(
        derived_seed("search", fingerprint, text, number)
        for number in range(stages.settings.search_images)
    )


def confirm(
    stages: Stages,
    prompts: Mapping[int, Prompt],
    before: OrdinaryImages,
    other: OrdinaryImages | None,
) -> dict[int, Confirmation]:
    """Generate unedited images of suspects and look for copies.

    Args:
        stages: what all stages share.
        prompts: the suspects that passed the screen, by index.
        before, other: unedited images of ordinary captions, from two kinds of noise.

    Returns:
        A confirmation for each of them.
    """
    texts = {index: prompt.text for index, prompt in prompts.items()}
    wanted = asked(texts, {}, partial(search_seeds, stages))
    records = stages.images("confirm", BEFORE, None, wanted, keep=True)
    null = Null(
        before.embeddings,
        other.embeddings if other else None,
        [read_image(stages.run.folder / file) for file in before.files],
        stages.settings.false_copies,
    )
    return {
        index: _confirmation(stages, prompts[index], null, record)
        for index, record in records.items()
    }


def _confirmation(stages: Stages, prompt: Prompt, null: Null, record: ImagesRecord) -> Confirmation:
    unedited = [read_image(stages.run.folder / file) for file in record.files]
    training = read_references(prompt.images).images
    first = None
    for test in copy_tests(prompt, training, unedited, null, stages.descriptor):
        confirmation = _judged(test, unedited, stages)
        if confirmation.confirmed:
            return confirmation
        first = first or confirmation
    assert first is not None  # there is always a test
    return first


def _judged(test: CopyTest, unedited: Sequence[Image.Image], stages: Stages) -> Confirmation:
    scores = test.scores(unedited, stages.descriptor)
    if test.measure == "agreement":
        scores.remove(max(scores))  # the medoid, compared with itself
    copies = sum(score > test.level for score in scores)
    return Confirmation(test, tuple(scores), Copies(copies, len(scores)))
