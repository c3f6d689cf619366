"""Images of prompts under an edit, judged while they are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    size: int = 1

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""
        return lambda items: [self._finished(model, asked) for asked in items]

    def _finished(self, model: Model, asked: Asked) -> Finished:
        images: list[Image.Image] = []
        scores: list[float] = []
        copies: list[int] = []
        for seeds in self._chunks(asked.seeds):
            generated = generate_each(
                model,
                [asked.text] * len(seeds),
                [self.edit] * len(seeds),
                settings=replace(self.settings, images=1),
                seeds=seeds,
            )
            made = [image for (image,) in generated]
            images += made
            if asked.test is not None:
                scores += asked.test.scores(made, self.descriptor)
                level = asked.test.level
                copies = [number for number, score in enumerate(scores) if score > level]
            if self.stop is not None and len(copies) >= self.stop:
                break
        kept = {"all": range(len(images)), "copies": copies, "none": ()}[self.keep]
        files = {
            f"{self.kind}/{asked.index:05d}_{number:02d}.png": png_bytes(images[number])
            for number in kept
        }
        record = ImagesRecord(
            prompt=asked.text,
            seeds=asked.seeds[: len(images)],
            scores=tuple(scores),
            copies=len(copies),
            alignment=tuple(self.clip(images, asked.text).tolist()) if self.clip else (),
            files=tuple(files),
        )
        return Finished(to_json(record), files)

    def _chunks(self, seeds: Sequence[int]) -> Iterator[Sequence[int]]:
        """Split seeds: a few first, then whole batches."""
        yield seeds[: self.first]
        for start in range(self.first, len(seeds), self.settings.batch):
            yield seeds[start : start + self.settings.batch]
