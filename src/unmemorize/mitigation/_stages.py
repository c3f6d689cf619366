"""The stages of a mitigation in a run folder: each does only what is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from unmemorize.engines import Execution, Progress, Task, silent
from unmemorize.generation import Edit
from unmemorize.metrics import ClipAlignment, Descriptor
from unmemorize.mitigation._copy_test import CopyTest
from unmemorize.mitigation._images import Asked, ImagesRecord, ImagesTask, Keep, read_image_records
from unmemorize.mitigation._ordinary import (
    OrdinaryImages,
    OrdinaryTask,
    ordinary_items,
    read_ordinary,
)
from unmemorize.mitigation._settings import MitigationSettings
from unmemorize.pipelines import Model
from unmemorize.runs import Run, drive_to_end

Announce = Callable[[str], AbstractContextManager[Progress]]
"""Opens the progress of a stage by its title."""
SAME = "same"
"""The arm of ordinary images whose noise is that of the images under an edit."""
_FIRST = 2
"""Images of a prompt that are judged before others are made: most failures show at once."""


@contextmanager
def unannounced(_title: str) -> Iterator[Progress]:
    """Report the progress of a stage to nobody."""
    yield silent


def announced_by(execution: Execution) -> Announce:
    """Report the progress of every stage to the callback of an execution, which hears no title."""
    return lambda _title: nullcontext(execution.progress)


@dataclass(frozen=True)
class Stages:
    """What all stages share.

    Args:
        run: holds the records.
        model: the model.
        settings: of the mitigation.
        descriptor: compares images.
        clip: compares images with captions; None to measure no alignment.
        execution: who does the work.
        announce: opens the progress of each stage.
    """

    run: Run
    model: Model
    settings: MitigationSettings
    descriptor: Descriptor
    clip: ClipAlignment | None
    execution: Execution
    announce: Announce

    @property
    def compares_distributions(self) -> bool:
        """Whether images of ordinary captions are compared as distributions, which takes a CLIP."""
        return self.settings.distances and self.clip is not None

    def work(self, title: str, task: Task, items: Sequence[tuple[int, Any]]) -> None:
        """Finish a stage.

        Raises:
            UnfinishedError: other shards have not done their part yet.
            RunError: an item fails.
        """
        indices = [index for index, _ in items]
        total = 1 + max(indices, default=-1)
        with self.announce(title) as progress:
            execution = replace(self.execution, progress=progress)
            drive_to_end(self.run, self.model, task, items, indices, total, execution, title)

    def images(
        self,
        title: str,
        kind: str,
        edit: Edit | None,
        asked: Sequence[Asked],
        *,
        stop: int | None = None,
        keep: Keep = "none",
    ) -> dict[int, ImagesRecord]:
        """Generate and judge images of prompts under one edit.

        Args:
            title: of the progress.
            kind: the name of the records. Those of an edit bear its digest, see `digest`.
            edit: what is changed.
            asked: the prompts.
            stop: leave a prompt at this number of copies.
            keep: which images are kept as files. Alignment is measured if all are.

        Returns:
            The records by index of the prompt.
        """
        task = ImagesTask(
            kind=kind,
            edit=edit,
            settings=self.settings.generation,
            descriptor=self.descriptor,
            # a count after a certificate splits its seeds likewise, since rounding depends on it
            first=_FIRST if stop or keep == "copies" else self.settings.generation.batch,
            clip=self.clip if keep == "all" else None,
            stop=stop,
            keep=keep,
        )
        self.work(title, task, [(each.index, each) for each in asked])
        records = self.recorded(kind)
        return {each.index: records[each.index] for each in asked}

    def recorded(self, kind: str) -> dict[int, ImagesRecord]:
        """Read the records of images of one kind, see `read_image_records`."""
        return read_image_records(self.run, kind)

    def ordinary(
        self,
        title: str,
        kind: str,
        edit: Edit | None,
        captions: Sequence[str],
        images: int,
        *,
        arm: str = SAME,
    ) -> OrdinaryImages:
        """Generate images of ordinary captions under one edit.

        Args:
            title, kind, edit: as in `images`.
            captions: ordinary captions.
            images: how many.
            arm: images of one arm start from the same noise.
        """
        task = OrdinaryTask(kind, edit, self.settings.generation, self.descriptor, self.clip)
        self.work(title, task, ordinary_items(captions, images, arm))
        return read_ordinary(self.run, kind, images)


def asked(
    texts: Mapping[int, str],
    tests: Mapping[int, CopyTest],
    seeds: Callable[[str], tuple[int, ...]],
) -> list[Asked]:
    """Ask for images of prompts, each prompt from its own seeds.

    Args:
        texts: the prompts by index.
        tests: tells copies of each prompt, where that is known.
        seeds: returns the seeds of a prompt, one for each image.
    """
    return [
        Asked(index, text, seeds(text), tests.get(index)) for index, text in sorted(texts.items())
    ]


def digest(edit: Edit) -> str:
    """Return a short name of an edit for records and files.

    Examples:
        >>> from unmemorize.generation import NeuronEdit
        >>> from unmemorize.neurons import Neurons
        >>> digest(NeuronEdit(Neurons({"attn2.to_v": [3]})))
        '905d64b414'
    """
    text = json.dumps(edit.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
