"""How much of their training images the images of a mitigation show again.

RUN/reproduced-EDIT.jsonl   shares for each memorized prompt, by the digest of the edit
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from unmemorize._files import to_json
from unmemorize.engines import Progress, silent
from unmemorize.metrics import read_image, read_references, reproduced_shares
from unmemorize.mitigation import MitigationResult, read_ordinary
from unmemorize.runs import Run, stored_images, unchanged_images

_ORDINARY = 50
"""Images of ordinary captions that each training image is compared with."""


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """How much of a training image of one prompt images show again, see `reproduced_shares`.

    Args:
        before, after: of each image before, and of each from the same noise under the edit.
        ordinary: of images of ordinary captions, which show what is due to chance.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]
    ordinary: tuple[float, ...]


def record_reproduced(run: Run, progress: Progress = silent) -> None:
    """Compare images with training images, once for each edit.

    Prompts of which no training image can be read, or is still that of the run, are left out.

    Args:
        run: a finished mitigation.
        progress: called with prompts.

    Raises:
        RunError: a record is damaged, or cannot be written.
        MetricError: an image of the run is missing or damaged.
    """
    result = MitigationResult.load(run)
    confirmed = [outcome for outcome in result.outcomes if outcome.confirmed]
    kind, references = _kind(result), list(stored_images(run))
    done = run.done(kind, len(references))
    ordinary: list[Image.Image] = []
    for number, outcome in enumerate(confirmed, 1):
        index = outcome.index
        paths = [] if done[index] else unchanged_images(references[index], run.folder)
        if training := read_references(paths).images:
            ordinary = ordinary or _ordinary(run)
            shares = Reproduced(
                before=reproduced_shares(_read(run, outcome.files_before), training),
                after=reproduced_shares(_read(run, outcome.files_after), training),
                ordinary=reproduced_shares(ordinary, training),
            )
            run.append(kind, index, to_json(shares))
        progress(number, len(confirmed))


def read_reproduced(run: Run, result: MitigationResult) -> Mapping[int, Reproduced]:
    """Read the shares of memorized prompts by index; none where they were not measured.

    Raises:
        RunError: a record is damaged.
    """
    return dict(run.typed(_kind(result), Reproduced, "Delete this file and repeat the command."))


def _kind(result: MitigationResult) -> str:
    return f"reproduced-{result.edit or 'none'}"


def _ordinary(run: Run) -> list[Image.Image]:
    return _read(run, read_ordinary(run, "ordinary-before", _ORDINARY).files)


def _read(run: Run, files: Sequence[str]) -> list[Image.Image]:
    return [read_image(run.folder / file) for file in files]
