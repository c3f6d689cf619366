"""Which suspects are memorized: those whose unedited images show copies."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from PIL import Image
from scipy.stats import binom

from unmemorize._errors import MitigationError, RunError
from unmemorize._files import to_json
from unmemorize._prompts import Prompt, repeated_text
from unmemorize.detection import (
    SEED_SIMILARITY,
    Detection,
    DetectTask,
    Threshold,
    conformal_quantile,
    prompts_needed,
    read_detections,
)
from unmemorize.metrics import Descriptor, read_image, read_references
from unmemorize.mitigation._certificate import Copies
from unmemorize.mitigation._copy_test import CopyTest, Measure, Null, copy_tests
from unmemorize.mitigation._images import ImagesRecord
from unmemorize.mitigation._ordinary import OrdinaryImages
from unmemorize.mitigation._own_captions import own_captions, without_own
from unmemorize.mitigation._seeds import derived_seed
from unmemorize.mitigation._stages import Stages, asked
from unmemorize.runs import Run

_logger = logging.getLogger("unmemorize")

BEFORE = "before"
"""The records and the folder of the unedited images of suspects."""
CONFIRMATIONS = "confirmations"
"""The records of what these images show."""
FEWEST_COPIES = 2
"""Copies among the unedited images that confirm a prompt."""
_SCREEN_RATE = 0.05
"""The rate of false positives of the screen, where seeds are not compared."""
_ROUNDING = 0.005
"""How much a score of the same images may differ on another device."""


@dataclass(frozen=True)
class Confirmation:
    """What the unedited images of a suspect show.

    Args:
        test: tells its copies: the first test that shows enough of them, else the first one.
        scores: of the unedited images by that test.
        medoid: the image that the others are compared with, which does not count itself; None
            unless the test is of agreement.
    """

    test: CopyTest
    scores: tuple[float, ...]
    medoid: int | None = None

    @property
    def counted(self) -> tuple[float, ...]:
        """The scores of the images that count."""
        return _counted(self.scores, self.medoid)

    @property
    def copies(self) -> Copies:
        """How many of the images are copies."""
        counted = self.counted
        return Copies(sum(score > self.test.level for score in counted), len(counted))

    @property
    def confirmed(self) -> bool:
        """Whether there are enough copies."""
        return self.copies.copies >= FEWEST_COPIES

    @property
    def measure(self) -> Measure:
        """What was compared."""
        return self.test.measure


@dataclass(frozen=True, kw_only=True)
class ConfirmationRecord:
    """A `Confirmation` as a line of ``confirmations.jsonl``.

    Args:
        prompt: its text.
        measure: what was compared to tell copies.
        level: the score above which an image counts as a copy.
        scores: of each unedited image, in the order of its files.
        medoid: see `Confirmation`.
        ordinary_copies: which unedited images of ordinary captions score above the level, too, by
            their place; None in runs of earlier versions.
    """

    prompt: str
    measure: Measure
    level: float
    scores: tuple[float, ...]
    medoid: int | None = None
    ordinary_copies: tuple[int, ...] | None = None

    @property
    def confirmed(self) -> bool:
        """Whether there are enough copies."""
        counted = _counted(self.scores, self.medoid)
        return sum(score > self.level for score in counted) >= FEWEST_COPIES


def _counted(scores: Sequence[float], medoid: int | None) -> tuple[float, ...]:
    return tuple(score for seed, score in enumerate(scores) if seed != medoid)


def read_confirmations(run: Run) -> dict[int, ConfirmationRecord]:
    """Read what the unedited images of suspects showed, by index of the prompt.

    Raises:
        RunError: a record is damaged.
    """
    way_out = "Repeat unmemorize mitigate; it computes only what is missing."
    return dict(run.typed(CONFIRMATIONS, ConfirmationRecord, way_out))


def refuse_no_suspects(prompts: Collection[Prompt]) -> None:
    """Refuse a run without suspects, which would draw ordinary images for nothing.

    Raises:
        MitigationError: there are none.
    """
    if not prompts:
        raise MitigationError("no suspects. Name prompts that may be memorized.")


def refuse_repeated_suspects(prompts: Iterable[Prompt]) -> None:
    """Refuse suspects of the same text. Their images are the same, as seeds follow from the text.

    Raises:
        MitigationError: there are two.
    """
    text = repeated_text(prompts)
    if text is not None:
        raise MitigationError(
            f"{text[:60]!r}: several suspects of this run have this text, so their images are the "
            "same and would be counted several times. Start a new run in which it is named once."
        )


def warn_of_missing_images(prompts: Collection[Prompt]) -> None:
    """Warn if no prompt names a training image, and of those that name some but none can be read.

    Their copies are told by agreement, which is another question. Published links go stale, so it
    is no error.
    """
    if prompts and not any(each.images for each in prompts):
        _logger.warning(
            "No suspect names a training image, so copies are told by how much images of one "
            "prompt agree, and verdicts rest on that. Name the images in the column images of the "
            "prompt file, or give a folder of references."
        )
    lost = [each for each in prompts if each.images and not read_references(each.images).images]
    if lost:
        _logger.warning(
            "%d prompts name training images of which none can be read, such as %s of %r. Their "
            "copies are told by how much images of one prompt agree.",
            len(lost),
            lost[0].images[0],
            lost[0].text[:60],
        )


def warn_of_few_captions(captions: Sequence[str], rate: float, most: int | None = None) -> None:
    """Warn if the level of a copy rests on fewer ordinary captions than its rate needs.

    Images of one caption are alike, so more images of few captions do not bound the rate.

    Args:
        captions: whose images tell the level.
        rate: the share of ordinary images that may pass for a copy.
        most: to how many captions the settings limit them; None for all.
    """
    needed, distinct = prompts_needed(rate), len(set(captions))
    if distinct < min(needed, most or needed):
        _logger.warning(
            "The level of a copy rests on images of %d ordinary captions. To promise that at most "
            "%g %% of ordinary images pass for copies, %d captions are needed, so more may pass. "
            "Give more captions.",
            distinct,
            100 * rate,
            needed,
        )


def screen(
    stages: Stages, prompts: Mapping[int, Prompt], threshold: Threshold
) -> dict[int, Detection]:
    """Detect all suspects.

    Returns:
        The detections by index of the prompt.
    """
    task = DetectTask(threshold, "never", stages.settings.generation.batch)
    stages.work("screen", task, sorted(prompts.items()))
    return {index: detection for index, _, detection in read_detections(stages.run)}


def screen_level(threshold: Threshold) -> float:
    """Return the score above which a suspect is generated.

    It is lower than the level of detection, since the images clear a suspect that is called by
    mistake: for seed similarity the level of localization, for other detectors the one that bounds
    false positives by 5 %, where the calibration tells it.
    """
    detect = threshold.detect
    if detect.detector == SEED_SIMILARITY:
        return min(threshold.localize.tau, detect.tau)
    if len(detect.scores) < prompts_needed(_SCREEN_RATE):
        return detect.tau
    return min(conformal_quantile(detect.scores, _SCREEN_RATE), detect.tau)


def confirmation_chance(rate: float, images: int) -> float:
    """Return the probability that a prompt is confirmed whose images copy at a rate.

    Args:
        rate: the copy rate, in [0, 1].
        images: how many images count.

    Examples:
        >>> round(confirmation_chance(0.1, 10), 3)
        0.264
    """
    return float(binom.sf(FEWEST_COPIES - 1, images, rate))


def search_seeds(stages: Stages, text: str) -> tuple[int, ...]:
    """Return the seeds that confirm a prompt and on which edits are searched."""
    return all_search_seeds(stages, text)[: stages.settings.search_images]


def further_search_seeds(stages: Stages, text: str) -> tuple[int, ...]:
    """Return as many other seeds, for a second look at a prompt that shows a single copy."""
    return all_search_seeds(stages, text)[stages.settings.search_images :]


def all_search_seeds(stages: Stages, text: str) -> tuple[int, ...]:
    """Return the seeds of both looks. No certificate uses any of them."""
    fingerprint = stages.model.fingerprint
    return tuple(
        derived_seed("search", fingerprint, text, number)
        for number in range(2 * stages.settings.search_images)
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
    records = stages.images("confirm", BEFORE, None, wanted, keep="all")
    null = Null(
        before.embeddings,
        other.embeddings if other else None,
        [read_image(stages.run.folder / file) for file in before.files],
        stages.settings.false_copies,
    )
    own = own_captions(prompts, before.captions)
    confirmations = {
        index: _confirmation(
            stages, prompts[index], without_own(own[index], before.captions, null), null, record
        )
        for index, record in records.items()
    }
    return recorded(stages.run, prompts, confirmations, null)


def recorded(
    run: Run,
    prompts: Mapping[int, Prompt],
    confirmations: Mapping[int, Confirmation],
    null: Null,
) -> dict[int, Confirmation]:
    """Write all confirmations at once, and return them as they are on record.

    They follow from the images, so each shard finds the same but for rounding. The levels that are
    on record stay, since later stages have counted copies by them.

    Raises:
        RunError: the record says something else of a prompt.
    """
    before = read_confirmations(run)
    lines, as_recorded = [], dict[int, Confirmation]()
    for index, confirmation in sorted(confirmations.items()):
        record = ConfirmationRecord(
            prompt=prompts[index].text,
            measure=confirmation.measure,
            level=confirmation.test.level,
            scores=confirmation.scores,
            medoid=confirmation.medoid,
            ordinary_copies=confirmation.test.copies_among(null),
        )
        if index in before and not _agree(before[index], record):
            raise RunError(
                f"{run.folder}: the unedited images of {record.prompt[:60]!r} are judged in "
                "another way than before. Were training images moved or changed? Put them back, or "
                "start a new run."
            )
        if index in before:
            copies = record.ordinary_copies  # which earlier versions did not record
            record = before[index]
            if record.ordinary_copies is None:
                record = replace(record, ordinary_copies=copies)
        test = replace(confirmation.test, level=record.level)
        as_recorded[index] = Confirmation(test, record.scores, record.medoid)
        lines.append(json.dumps({"index": index, **to_json(record)}, ensure_ascii=False) + "\n")
    name, content = f"{CONFIRMATIONS}.jsonl", "".join(lines).encode()
    path = run.folder / name
    if not path.is_file() or path.read_bytes() != content:
        run.write(name, content)
    return as_recorded


def _agree(one: ConfirmationRecord, two: ConfirmationRecord) -> bool:
    """Whether two records say the same of one prompt, but for rounding."""
    first, second = ((each.level, *each.scores) for each in (one, two))
    if (one.measure, one.confirmed) != (two.measure, two.confirmed) or len(first) != len(second):
        return False
    return max(abs(a - b) for a, b in zip(first, second, strict=True)) <= _ROUNDING


def _confirmation(
    stages: Stages, prompt: Prompt, others: Null, null: Null, record: ImagesRecord
) -> Confirmation:
    """Compare with training images by the others among ordinary images, or else by all of them."""
    unedited = [read_image(stages.run.folder / file) for file in record.files]
    training = read_references(prompt.images).images
    return confirmed_by(prompt, training, unedited, others if training else null, stages.descriptor)


def confirmed_by(
    prompt: Prompt,
    training: Sequence[Image.Image],
    unedited: Sequence[Image.Image],
    null: Null,
    descriptor: Descriptor,
) -> Confirmation:
    """Tell what the unedited images of a prompt show.

    Args:
        prompt, training, unedited, null, descriptor: see `copy_tests`.

    Raises:
        ThresholdError: there are too few ordinary images for the rate of false copies.
    """
    first = None
    for test in copy_tests(prompt, training, unedited, null, descriptor):
        confirmation = _judged(test, unedited, descriptor)
        if confirmation.confirmed:
            return confirmation
        first = first or confirmation
    assert first is not None  # there is always a test
    return first


def _judged(
    test: CopyTest, unedited: Sequence[Image.Image], descriptor: Descriptor
) -> Confirmation:
    scores = test.scores(unedited, descriptor)
    medoid = scores.index(max(scores)) if test.measure == "agreement" else None  # it equals itself
    return Confirmation(test, tuple(scores), medoid)
