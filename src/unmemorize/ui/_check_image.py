"""Check an image: do the images of some prompts copy it?

The level of a copy rests on images of ordinary captions. They are drawn once for each model and
kept in the cache of the user: CACHE/ordinary/KEY is a run folder with them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image

from unmemorize._errors import PromptError
from unmemorize._files import hash_texts, to_json
from unmemorize._kept import cache_folder
from unmemorize._prompts import Prompt
from unmemorize.engines import Execution, Progress, silent
from unmemorize.generation import GenerationSettings, generate_each
from unmemorize.metrics import read_image
from unmemorize.mitigation import (
    FEWEST_COPIES,
    Announce,
    Confirmation,
    Measure,
    Null,
    Stages,
    confirmed_by,
    unannounced,
    without_own,
)
from unmemorize.runs import Inputs, Run
from unmemorize.ui._studio import Studio

_COMPARED: dict[Measure, str] = {"image": "your picture", "layout": "the layout of your picture"}


@dataclass(frozen=True, kw_only=True)
class OrdinaryRun:
    """What determines images of ordinary captions, besides the model.

    Args:
        generation: steps, guidance and batch.
        captions: a hash of the captions.
        descriptor: a hash of the network that compares images.
    """

    kind: ClassVar[str] = "ordinary"

    generation: GenerationSettings
    captions: str
    descriptor: str


@dataclass(frozen=True)
class ImageCheck:
    """Whether the images of a prompt copy a picture.

    Args:
        prompt: the prompt.
        images: of the unedited model.
        confirmation: what they show.
        rate: the share of ordinary images that may pass for a copy.
    """

    prompt: str
    images: tuple[Image.Image, ...]
    confirmation: Confirmation
    rate: float

    @property
    def status(self) -> str:
        """The verdict in one word or two."""
        return "memorized" if self.confirmation.confirmed else "not confirmed"

    @property
    def verdict(self) -> str:
        """The verdict with its numbers."""
        copies, test = self.confirmation.copies, self.confirmation.test
        enough = "" if self.confirmation.confirmed else f" {FEWEST_COPIES} confirm a prompt."
        return (
            f"Copies of {_COMPARED[test.measure]}: {copies.copies} of {copies.seeds} images."
            f"{enough} A copy scores above {test.level:.2f}, which at most {100 * self.rate:.3g} % "
            f"of ordinary images do. The closest scores {max(self.confirmation.scores):.2f}."
        )


def prompts_in(text: str) -> list[str]:
    """Return the prompts that somebody typed, one in each line.

    Other separators of Unicode, which a copied caption may hold, do not end a prompt.

    Raises:
        PromptError: there is none.

    Examples:
        >>> prompts_in("a cat\\u2028on a mat\\n\\na dog \\r\\n")
        ['a cat\\u2028on a mat', 'a dog']
    """
    texts = [line.strip() for line in text.split("\n") if line.strip()]
    if not texts:
        raise PromptError("there is no prompt. Type one in each line, or audit the picture.")
    return texts


def check_image(
    studio: Studio,
    picture: Path,
    texts: Sequence[str],
    announce: Announce = unannounced,
) -> Iterator[ImageCheck]:
    """Yield for each prompt whether its images copy a picture.

    Args:
        studio: the model.
        picture: an image file.
        texts: the prompts.
        announce: opens the progress of each stage.

    Raises:
        PromptError: a prompt is empty or too long.
        MetricError: the picture cannot be read.
    """
    prompts = [Prompt(studio.prompt(text).text) for text in texts]
    training = (read_image(picture),)
    null = ordinary_images(studio, announce, own={prompt.text for prompt in prompts})
    for number, prompt in enumerate(prompts, 1):
        with announce(f"drawing for prompt {number} of {len(prompts)}") as progress:
            images = _drawn(studio, prompt, progress)
        found = confirmed_by(prompt, training, images, null, studio.descriptor)
        yield ImageCheck(prompt.text, tuple(images), found, null.rate)


def ordinary_images(
    studio: Studio, announce: Announce = unannounced, own: Collection[str] = ()
) -> Null:
    """Return images of ordinary captions, which are drawn first where they are missing.

    Args:
        studio: the model.
        announce: opens the progress.
        own: captions that may draw copies, whose images are left out.
    """
    settings = studio.mitigation(quick=True)
    made_of = OrdinaryRun(
        generation=settings.generation,
        captions=hash_texts(studio.captions.ordinary),
        descriptor=studio.descriptor.digest,
    )
    model = studio.model
    inputs = Inputs(fingerprint=model.fingerprint, dtype=str(model.dtype))
    key = hash_texts([json.dumps([to_json(made_of), to_json(inputs)], sort_keys=True)])
    folder = cache_folder() / "ordinary" / key[:32]
    images = settings.ordinary_images
    run = Run.open(folder, made_of, inputs=inputs, model=model.name, items=images)
    stages = Stages(run, model, settings, studio.descriptor, None, Execution(), announce)
    captions = studio.captions.ordinary
    title = "drawing ordinary images, once for this model"
    drawn = stages.ordinary(title, "ordinary", None, captions, images)
    files = [read_image(run.folder / file) for file in drawn.files]
    null = Null(drawn.embeddings, None, files, settings.false_copies)
    return without_own(own, drawn.captions, null)


def _drawn(studio: Studio, prompt: Prompt, progress: Progress = silent) -> list[Image.Image]:
    settings = studio.drawing(studio.quick.search_images)
    (images,) = generate_each(
        studio.model, [prompt.text], [None], settings=settings, progress=progress
    )
    return images
