"""What a method at one strength leaves of one suspect's copy, and does to ordinary images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from unmemorize._errors import UnmemorizeError
from unmemorize._files import to_json
from unmemorize._prompts import Prompt
from unmemorize.comparison._settings import kind_of
from unmemorize.engines import Finished, UnitFunction
from unmemorize.generation import Change, GenerationSettings, generate_each
from unmemorize.localization import Localization
from unmemorize.methods import Mitigation, Suspect, refinement_of
from unmemorize.metrics import (
    ClipAlignment,
    Descriptor,
    Instruments,
    PromptImages,
    Values,
    make_metrics,
    measured,
    read_image,
    read_references,
)
from unmemorize.mitigation import CopyTest, packed
from unmemorize.pipelines import Model
from unmemorize.runs import Run

UNEDITED = "none"
"""The name of the unedited model among methods."""
_OF_ONE = 10
"""Images of a batch that one suspect fills."""


@dataclass(frozen=True, kw_only=True)
class DrawnRecord:
    """Images of one suspect, and of some ordinary captions, under one method at one strength.

    Args:
        prompt: the suspect.
        method, strength: the method; "none" and 0 for the unedited model.
        refused: why the method does not work here; empty where it does.
        scores: of the suspect's images by its `CopyTest`.
        copies: how many of them are copies.
        values: by registered metric: a number for each of these images, or one for all.
        similarity: of each ordinary image to the unedited one from the same noise, by the
            descriptor.
        alignment: cosine of each ordinary image with its caption by CLIP; empty without a CLIP.
        features: image features of each ordinary image by CLIP, as text; empty without a CLIP.
        images: how many images were drawn.
        fit_seconds: wall time of localization and fitting.
        seconds: wall time of drawing all images; of those that were drawn together with others, by
            their share in the number of images.
    """

    prompt: str
    method: str
    strength: float
    refused: str = ""
    scores: tuple[float, ...] = ()
    copies: int = 0
    values: Mapping[str, Values] = field(default_factory=dict)
    similarity: tuple[float, ...] = ()
    alignment: tuple[float, ...] = ()
    features: tuple[str, ...] = ()
    images: int = 0
    fit_seconds: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Drawn:
    """What is drawn under a method for one suspect.

    Args:
        prompt: the suspect.
        seeds: of its images.
        originals: files of its unedited images from the same noise.
        test: tells its copies.
        captions, caption_seeds: ordinary captions, and the seed of the image of each.
        before: copy descriptors of the unedited images of these captions, (captions, D).
        localization: the neurons that the method needs; None where it needs none.
    """

    prompt: Prompt
    seeds: tuple[int, ...]
    originals: tuple[Path, ...]
    test: CopyTest
    captions: tuple[str, ...]
    caption_seeds: tuple[int, ...]
    before: Tensor
    localization: Localization | None = None


@dataclass(frozen=True)
class DrawTask:
    """Images under one method as a `Task`, whose items are `Drawn`.

    Args:
        method: the method at one strength; None for the unedited model.
        kept: ordinary captions that it should leave alone.
        settings: steps, guidance and batch.
        descriptor: compares images.
        clip: measures alignment and features; None to leave them out.
        localized_by: what determines the localizations, if the method needs them.
    """

    method: Mitigation | None
    kept: tuple[str, ...]
    settings: GenerationSettings
    descriptor: Descriptor
    clip: ClipAlignment | None
    localized_by: str = ""

    @property
    def size(self) -> int:
        """Suspects whose images are drawn together: more than one only where batches are large."""
        return max(1, self.settings.batch // _OF_ONE)

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.method.name if self.method else UNEDITED

    @property
    def strength(self) -> float:
        """The strength of the method."""
        return self.method.strength if self.method else 0.0

    @property
    def kind(self) -> str:
        """The name of the records: another one for each strength and other settings."""
        settings: Any = to_json(self.method) if is_dataclass(self.method) else {}
        localized_by = self.localized_by if refinement_of(self.method) else ""
        return kind_of("method", self.name, [self.strength, settings, localized_by])

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""

        def work(items: Sequence[Drawn]) -> list[Finished]:
            attempts = [self._fitted(model, item) for item in items]
            self._draw(model, [attempt for attempt in attempts if not attempt.record.refused])
            return [Finished(to_json(self._judged(attempt))) for attempt in attempts]

        return work

    def _fitted(self, model: Model, item: Drawn) -> _Attempt:
        """Fit the method to a suspect; it may say why it cannot."""
        attempt = _Attempt(
            item,
            DrawnRecord(prompt=item.prompt.text, method=self.name, strength=self.strength),
        )
        if self.method is None:
            return attempt
        suspect = Suspect(
            prompt=item.prompt,
            localizations=(item.localization,) if item.localization else (),
            ordinary=self.kept,
            settings=self.settings,
        )
        began = time.perf_counter()
        try:
            attempt.change = self.method.fit(model, suspect)
        except UnmemorizeError as problem:
            attempt.refuse(problem)
            return attempt
        localized = (item.localization and item.localization.seconds) or 0.0
        seconds = time.perf_counter() - began + localized
        attempt.record = replace(attempt.record, fit_seconds=seconds)
        return attempt

    def _draw(self, model: Model, attempts: Sequence[_Attempt]) -> None:
        """Draw the images of suspects together, each under the change that was fitted to it.

        A method may also refuse while it draws. Then each suspect is drawn alone, so that none is
        refused for another.
        """
        if not attempts:
            return
        began = time.perf_counter()
        try:
            drawn = generate_each(
                model,
                [prompt for attempt in attempts for prompt in attempt.prompts],
                [attempt.change for attempt in attempts for _ in attempt.prompts],
                settings=replace(self.settings, images=1),
                seeds=[seed for attempt in attempts for seed in attempt.seeds],
            )
        except UnmemorizeError as problem:
            if len(attempts) == 1:
                attempts[0].refuse(problem)
                return
            for attempt in attempts:
                self._draw(model, [attempt])
            return
        seconds = (time.perf_counter() - began) / len(drawn)
        images = [image for (image,) in drawn]
        self.descriptor(images)  # all at once is faster, and each is computed once
        rest = iter(images)
        for attempt in attempts:
            attempt.images = list(islice(rest, len(attempt.prompts)))
            count = len(attempt.images)
            attempt.record = replace(attempt.record, images=count, seconds=count * seconds)

    def _judged(self, attempt: _Attempt) -> DrawnRecord:
        """Measure images: those of the suspect come first, then those of ordinary captions."""
        record, item, images = attempt.record, attempt.item, attempt.images
        if record.refused:
            return record
        of_suspect, ordinary = images[: len(item.seeds)], images[len(item.seeds) :]
        scores = item.test.scores(of_suspect, self.descriptor)
        if self.method is None and item.test.measure == "agreement":
            scores.remove(max(scores))  # the image that all others are compared with
        shown = PromptImages(
            prompt=item.prompt,
            generated=tuple(of_suspect),
            originals=tuple(map(read_image, item.originals)),
            training=read_references(item.prompt.images).images,
            descriptor=self.descriptor,
        )
        metrics = make_metrics(Instruments(self.descriptor, self.clip))
        record = replace(
            record,
            scores=tuple(scores),
            copies=sum(score > item.test.level for score in scores),
            values=measured(metrics, shown),
        )
        if not ordinary:
            return record
        similarity = (self.descriptor(ordinary) * item.before).sum(1)
        record = replace(record, similarity=tuple(similarity.tolist()))
        if self.clip is None:
            return record
        features = self.clip.features(ordinary)
        return replace(
            record,
            alignment=tuple(self.clip.alignment(features, item.captions).tolist()),
            features=tuple(map(packed, features)),
        )


@dataclass
class _Attempt:
    """What has become of a method and a suspect so far.

    Args:
        item: what is drawn.
        record: what is known of it.
        change: what the method made for it; None changes nothing.
        images: those of the suspect, then those of ordinary captions.
    """

    item: Drawn
    record: DrawnRecord
    change: Change | None = None
    images: list[Image.Image] = field(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        """Of each image."""
        return [self.item.prompt.text] * len(self.item.seeds) + list(self.item.captions)

    @property
    def seeds(self) -> list[int]:
        """Of each image."""
        return [*self.item.seeds, *self.item.caption_seeds]

    def refuse(self, problem: UnmemorizeError) -> None:
        """Note why the method does not work here."""
        self.record = replace(self.record, refused=str(problem), fit_seconds=0.0)


def read_drawn(run: Run, kind: str) -> dict[int, DrawnRecord]:
    """Read the records of a method at one strength, by index of the suspect.

    Raises:
        RunError: a record is damaged.
    """
    return dict(run.typed(kind, DrawnRecord, "Delete the file and repeat the command."))


def spread_captions(
    items: Sequence[tuple[int, tuple[int, str, int]]], before: Tensor, suspects: int, place: int
) -> tuple[tuple[str, ...], tuple[int, ...], Tensor]:
    """Return the ordinary captions that are drawn under the method fitted for one suspect.

    Suspects take them in turn, so each ordinary image is drawn once for a method.

    Args:
        items: of `ordinary_items`.
        before: descriptors of their unedited images, (items, D).
        suspects: how many suspects there are.
        place: which of them, from 0.

    Returns:
        Captions, seeds, and rows of ``before``.

    Examples:
        >>> import torch
        >>> items = [(number, (number, f"caption {number}", number)) for number in range(5)]
        >>> spread_captions(items, torch.eye(5), 2, 1)[0]
        ('caption 1', 'caption 3')
    """
    rows = range(place, len(items), suspects)
    captions = tuple(items[row][1][1] for row in rows)
    return captions, tuple(items[row][1][2] for row in rows), before[list(rows)]
