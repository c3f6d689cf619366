"""What a method at one strength leaves of one suspect's copy, and does to ordinary images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from unmemorize._errors import UnmemorizeError
from unmemorize._files import to_json
from unmemorize._prompts import Prompt
from unmemorize.comparison._choice import NOTHING
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
    read_image,
    read_references,
)
from unmemorize.mitigation import CopyTest, packed
from unmemorize.pipelines import Model
from unmemorize.runs import Run


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
        seconds: wall time of drawing all images.
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
    size: int = 1

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.method.name if self.method else NOTHING

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
        return lambda items: [Finished(to_json(self._record(model, item))) for item in items]

    def _record(self, model: Model, item: Drawn) -> DrawnRecord:
        record = DrawnRecord(prompt=item.prompt.text, method=self.name, strength=self.strength)
        try:
            began = time.perf_counter()
            change = self._fitted(model, item)
            fitted = time.perf_counter()
            prompts = [item.prompt.text] * len(item.seeds) + list(item.captions)
            drawn = generate_each(
                model,
                prompts,
                [change] * len(prompts),
                settings=replace(self.settings, images=1),
                seeds=[*item.seeds, *item.caption_seeds],
            )
            finished = time.perf_counter()
        except UnmemorizeError as problem:  # the method says why it cannot
            return replace(record, refused=str(problem))
        images = [image for (image,) in drawn]
        localized = (item.localization and item.localization.seconds) or 0.0
        record = replace(
            record,
            images=len(images),
            fit_seconds=fitted - began + localized,
            seconds=finished - fitted,
        )
        return self._judged(record, item, images)

    def _fitted(self, model: Model, item: Drawn) -> Change | None:
        if self.method is None:
            return None
        suspect = Suspect(
            prompt=item.prompt,
            localizations=(item.localization,) if item.localization else (),
            ordinary=self.kept,
            settings=self.settings,
        )
        return self.method.fit(model, suspect)

    def _judged(
        self, record: DrawnRecord, item: Drawn, images: Sequence[Image.Image]
    ) -> DrawnRecord:
        """Measure images: those of the suspect come first, then those of ordinary captions."""
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
        measured = {name: metric(shown) for name, metric in metrics.items()}
        record = replace(
            record,
            scores=tuple(scores),
            copies=sum(score > item.test.level for score in scores),
            values={name: value for name, value in measured.items() if value is not None},
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
