"""Images of prompts under an edit, judged while they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

from PIL import Image

from unmemorize._files import png_bytes, to_json
from unmemorize.engines import Finished, UnitFunction
from unmemorize.generation import Edit, GenerationSettings, generate_each
from unmemorize.metrics import ClipAlignment, Descriptor
from unmemorize.mitigation._copy_test import CopyTest
from unmemorize.pipelines import Model
from unmemorize.runs import Run

Keep = Literal["all", "copies", "none"]
"""Which images of a stage are kept as files."""
_OF_ONE = 10
"""Images of a batch that one prompt fills."""


@dataclass(frozen=True)
class Asked:
    """Images that are asked for.

    Args:
        index: the position of the prompt in the run.
        text: the prompt.
        seeds: of the initial noise of each image.
        test: tells copies; None where nothing is judged.
    """

    index: int
    text: str
    seeds: tuple[int, ...]
    test: CopyTest | None


@dataclass(frozen=True, kw_only=True)
class ImagesRecord:
    """Images of one prompt and how much they copy.

    Args:
        prompt: its text.
        seeds: of the images that were made.
        scores: of each image by the prompt's `CopyTest`; empty where nothing was judged.
        copies: how many scores are above the level.
        alignment: cosines of the images with the prompt by CLIP; empty without a CLIP.
        files: the images that were kept, see `Keep`.
    """

    prompt: str
    seeds: tuple[int, ...]
    scores: tuple[float, ...] = ()
    copies: int = 0
    alignment: tuple[float, ...] = ()
    files: tuple[str, ...] = ()


def read_image_records(run: Run, kind: str) -> dict[int, ImagesRecord]:
    """Read the records of images of one kind by index of the prompt.

    Args:
        run: a mitigation.
        kind: the name of the records, such as "before".

    Raises:
        RunError: one is damaged.
    """
    return dict(run.typed(kind, ImagesRecord, "Start a new run."))


@dataclass(frozen=True, kw_only=True)
class ImagesTask:
    """Images of prompts under an edit as a `Task`, whose items are `Asked`.

    Args:
        kind: the name of the records.
        edit: what is changed; None for the unedited model.
        settings: steps, guidance and batch.
        first: how many images are judged before others are made.
        descriptor: compares images.
        clip: measures the alignment; None to leave it out.
        stop: stop a prompt at this number of copies; None to make all images.
        keep: which images are kept as files.
    """

    kind: str
    edit: Edit | None
    settings: GenerationSettings
    descriptor: Descriptor
    first: int
    clip: ClipAlignment | None = None
    stop: int | None = None
    keep: Keep = "none"

    @property
    def size(self) -> int:
        """Prompts whose images are drawn together: more than one only where batches are large."""
        return max(1, self.settings.batch // _OF_ONE)

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""

        def work(items: Sequence[Asked]) -> list[Finished]:
            drawn = [_Drawn(asked) for asked in items]
            pending, start, count = drawn, 0, self.first
            while pending:
                self._draw(model, pending, slice(start, start + count))
                start, count = start + count, self.settings.batch
                pending = [
                    each
                    for each in pending
                    if start < len(each.asked.seeds)
                    and (self.stop is None or len(each.copies) < self.stop)
                ]
            return [self._finished(each) for each in drawn]

        return work

    def _draw(self, model: Model, pending: Sequence[_Drawn], part: slice) -> None:
        """Draw and judge the images of some seeds of each prompt."""
        texts = [each.asked.text for each in pending for _ in each.asked.seeds[part]]
        generated = generate_each(
            model,
            texts,
            [self.edit] * len(texts),
            settings=replace(self.settings, images=1),
            seeds=[seed for each in pending for seed in each.asked.seeds[part]],
        )
        images = (image for (image,) in generated)
        for each in pending:
            made = list(islice(images, len(each.asked.seeds[part])))
            each.images += made
            if each.asked.test is not None:
                each.scores += each.asked.test.scores(made, self.descriptor)

    def _finished(self, drawn: _Drawn) -> Finished:
        asked, images = drawn.asked, drawn.images
        kept = {"all": range(len(images)), "copies": drawn.copies, "none": ()}[self.keep]
        files = {
            f"{self.kind}/{asked.index:05d}_{number:02d}.png": png_bytes(images[number])
            for number in kept
        }
        record = ImagesRecord(
            prompt=asked.text,
            seeds=asked.seeds[: len(images)],
            scores=tuple(drawn.scores),
            copies=len(drawn.copies),
            alignment=tuple(self.clip(images, asked.text).tolist()) if self.clip else (),
            files=tuple(files),
        )
        return Finished(to_json(record), files)


@dataclass
class _Drawn:
    """The images of one prompt so far, and how much they copy."""

    asked: Asked
    images: list[Image.Image] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def copies(self) -> list[int]:
        """The numbers of the images that are copies."""
        test = self.asked.test
        if test is None:
            return []
        return [number for number, score in enumerate(self.scores) if score > test.level]
