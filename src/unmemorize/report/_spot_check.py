"""Whether the edited model that is written draws what was certified."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from unmemorize._errors import RunError
from unmemorize._files import from_json, read_json, to_json
from unmemorize._words import counted
from unmemorize.engines import Progress
from unmemorize.export import CHECKPOINT
from unmemorize.generation import generate_each
from unmemorize.metrics import pixel_correlation, read_image
from unmemorize.mitigation import MitigationResult, MitigationRun, read_image_records
from unmemorize.pipelines import Model
from unmemorize.runs import Run

_logger = logging.getLogger("unmemorize")

SPOT_CHECK = "spot-check.json"
_PROMPTS = 4
_SAME = 0.9
"""The correlation above which two images are the same but for rounding."""


@dataclass(frozen=True, kw_only=True)
class SpotCheck:
    """Images of the written model beside those of the same noise that the run has kept.

    The run applies the edit to the loaded model. Rounding may differ a little in what is written.

    Args:
        edit: the digest of the edit.
        files: the kept images, one of each of the first memorized prompts.
        correlations: over the pixels, in [-1, 1], for each.
    """

    edit: str
    files: tuple[str, ...]
    correlations: tuple[float, ...]

    @property
    def lowest(self) -> float:
        """The correlation of the pair that differs most."""
        return min(self.correlations)

    @property
    def passed(self) -> bool:
        """Whether the images are the same."""
        return self.lowest >= _SAME

    def __str__(self) -> str:
        images = counted(len(self.files), "image")
        if self.passed:
            return (
                f"The written model draws what the run has drawn ({images} from the same noise, "
                f"lowest correlation {self.lowest:.3f})."
            )
        return (
            f"The written model draws other images than those of the run ({images} from the same "
            f"noise, lowest correlation {self.lowest:.3f}). The verdicts are not about it."
        )


def spot_check(
    run: Run, model: Model, result: MitigationResult, progress: Progress
) -> SpotCheck | None:
    """Draw a few images with the model that was written, or read what was found before.

    Args:
        run: a finished mitigation, with the edited model in its folder.
        model: the unedited model. The edited one is loaded beside it, on the same device.
        result: the verdicts.
        progress: called with the number of images.

    Returns:
        The comparison; None if no edited model was written, or no image was kept.
    """
    found = read_spot_check(run)
    if found is not None and found.edit == result.edit:
        return found
    pairs = list(_kept(run, result))
    folder = run.folder / CHECKPOINT
    if not pairs or not folder.is_dir():
        return None
    try:
        drawn = list(_drawn(run, folder, model, pairs, progress))
    except torch.OutOfMemoryError:
        _logger.warning("%s: no memory to load it beside the unedited model. Not tried.", folder)
        return None
    kept = [read_image(run.folder / file) for *_, file in pairs]
    check = SpotCheck(
        edit=result.edit,
        files=tuple(file for *_, file in pairs),
        correlations=tuple(pixel_correlation(kept, drawn)),
    )
    run.write(SPOT_CHECK, json.dumps(to_json(check), indent=1) + "\n")
    return check


def read_spot_check(run: Run) -> SpotCheck | None:
    """Read what was found; None if nothing was looked at.

    Raises:
        RunError: the file is damaged.
    """
    path = run.folder / SPOT_CHECK
    if not path.exists():
        return None
    way_out = "Delete it and repeat unmemorize mitigate."
    content = read_json(path, RunError, "spot check")
    return from_json(SpotCheck, content, RunError, f"{path}: damaged", way_out)


def _kept(run: Run, result: MitigationResult) -> Iterator[tuple[str, int, str]]:
    """Yield text, seed and file of an edited image of each of the first memorized prompts."""
    outcomes = [outcome for outcome in result.outcomes if outcome.files_after]
    for outcome in outcomes[:_PROMPTS]:
        file = outcome.files_after[0]
        record = read_image_records(run, Path(file).parent.name)[outcome.index]
        yield outcome.prompt, record.seeds[record.files.index(file)], file


def _drawn(
    run: Run,
    folder: Path,
    model: Model,
    pairs: Sequence[tuple[str, int, str]],
    progress: Progress,
) -> Iterator[Image.Image]:
    """Yield an image of the written model for each text and seed."""
    edited = Model.load(
        str(folder),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        value_layers=model.loading.value_layers if model.loading else None,
        local_files_only=True,
    )
    generated = generate_each(
        edited,
        [text for text, *_ in pairs],
        [None] * len(pairs),
        settings=replace(run.settings(MitigationRun).settings.generation, images=1),
        seeds=[seed for _, seed, _ in pairs],
    )
    for number, (image,) in enumerate(generated, 1):
        progress(number, len(pairs))
        yield image
