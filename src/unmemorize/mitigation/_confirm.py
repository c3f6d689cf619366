"""Whether the unedited generations of a prompt show that it is memorized, and by which measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from unmemorize._prompts import Prompt
from unmemorize.metrics import Descriptor
from unmemorize.mitigation._certificate import Copies
from unmemorize.mitigation._copy_level import (
    FALSE_COPIES,
    CopyMeasure,
    MeasureName,
    masked_layout,
    medoid,
    whole_image,
)

SEEDS = 10
"""Seeds whose unedited images are looked at."""
NEEDED = 2
"""Copies among them that confirm a prompt. One may be chance."""


@dataclass(frozen=True)
class Confirmation:
    """What the unedited generations of a prompt show.

    Args:
        measure: the first measure that shows copies; None if none does.
        copies: what that measure counts. Without one, the most that any measure counts.
    """

    measure: MeasureName | None
    copies: Copies

    @property
    def confirmed(self) -> bool:
        """Whether the prompt counts as memorized."""
        return self.measure is not None


@dataclass(frozen=True)
class SeedScores:
    """What one measure says about the unedited images of a prompt.

    Args:
        measure: its name.
        scores: one for each seed.
        level: the score above which an image is a copy.
    """

    measure: MeasureName
    scores: tuple[float, ...]
    level: float

    @property
    def copies(self) -> Copies:
        """How many of the seeds are copies."""
        return Copies(sum(score > self.level for score in self.scores), len(self.scores))


def confirm(measured: Sequence[SeedScores]) -> Confirmation:
    """Choose the first measure by which at least two seeds are copies.

    Args:
        measured: what the measures say, in the order in which they count. At least one.

    Examples:
        >>> whole = SeedScores("whole image", (0.9, 0.1, 0.2), 0.5)
        >>> confirm([whole, SeedScores("masked layout", (0.9, 0.8, 0.2), 0.5)])
        Confirmation(measure='masked layout', copies=Copies(copies=2, seeds=3))
    """
    for seeds in measured:
        if seeds.copies.copies >= NEEDED:
            return Confirmation(seeds.measure, seeds.copies)
    return Confirmation(None, max((seeds.copies for seeds in measured), key=lambda c: c.copies))


def confirm_prompt(
    prompt: Prompt,
    unedited: Sequence[Image.Image],
    references: Sequence[Image.Image],
    ordinary: Sequence[Image.Image],
    descriptor: Descriptor,
    *,
    rate: float | None = FALSE_COPIES,
) -> tuple[Confirmation, CopyMeasure | None]:
    """Confirm a prompt from its unedited images.

    Without a reference, the medoid of the unedited images stands for it. It does not count as a
    copy of itself.

    Args:
        prompt: the prompt, with its kind where that is known.
        unedited: its images by the unedited model, one for each seed.
        references: its training images; may be empty.
        ordinary: images of other, ordinary captions by the same model, at least 999 for a rate of
            .001.
        descriptor: compares images.
        rate: see `copy_level`.

    Returns:
        What they show, and the measure that the certificate uses; None if not confirmed.

    Raises:
        ThresholdError: there are too few ordinary images for the rate.
    """
    measures: dict[MeasureName, CopyMeasure] = {}
    scores = []
    for measure, seeds in _measures(prompt, unedited, references, ordinary, descriptor, rate):
        measures[measure.name] = measure
        scores.append(SeedScores(measure.name, tuple(measure.score(seeds)), measure.level.level))
    confirmation = confirm(scores)
    return confirmation, measures[confirmation.measure] if confirmation.measure else None


def _measures(
    prompt: Prompt,
    unedited: Sequence[Image.Image],
    references: Sequence[Image.Image],
    ordinary: Sequence[Image.Image],
    descriptor: Descriptor,
    rate: float | None,
) -> Iterator[tuple[CopyMeasure, Sequence[Image.Image]]]:
    """Yield the measures that apply, each with the unedited images that it judges."""
    if not references:
        centre = medoid(descriptor(unedited))
        others = [image for index, image in enumerate(unedited) if index != centre]
        name: MeasureName = "agreement of seeds"
        yield whole_image([unedited[centre]], ordinary, descriptor, rate=rate, name=name), others
        return
    yield whole_image(references, ordinary, descriptor, rate=rate), unedited
    if prompt.kind == "TM":
        alike = references if len(references) > 1 else unedited
        layout = masked_layout(references, alike, ordinary, rate=rate)
        if layout is not None:
            yield layout, unedited
